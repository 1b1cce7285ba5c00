//! Does any cost grow faster than the number of sessions?
//!
//! The sessions have pipes in memory instead of sockets, so more of them fit on a machine. Each number of sessions runs
//! in a new process. In an old process, sessions would reuse freed memory, and the resident size would not grow.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::figures::curve::{Curve, points};
use crate::figures::fit::{Fit, exponent};
use crate::figures::record::{self, Figures, Record};
use crate::figures::statistics::short;
use crate::figures::table;
use crate::questions::pipes;

/// The name of the question, with which the names of all cases begin.
pub const NAME: &str = "sessions";

/// The measured numbers of sessions.
const NUMBERS: [u32; 5] = [10_000, 20_000, 50_000, 100_000, 200_000];

/// The greatest power of the number of sessions with which a cost may grow. The limit is 1, plus a margin for noise.
const LIMIT: f64 = 1.1;

/// The limit for a message to all and for disconnecting all. Both access the memory of every session once, in the order
/// of a hash map. The memory of few sessions fits into the processor's caches. With many sessions, the same
/// instructions take longer. `publish-to-100` and `publish-to-10000` in operations.rs show this.
const LIMIT_OF_TOUCHING: f64 = 1.35;

/// The limit for a message to one client. The cost of such a message must not depend on the number of other sessions.
const LIMIT_OF_ONE: f64 = 0.1;

/// A cost, and the limit of its growth with the number of sessions.
struct Fitted {
    figure: &'static str,
    words: &'static str,
    /// Whether to multiply the figure, which is that of one session, by the number of sessions.
    of_all: bool,
    limit: f64,
}

const fn fitted(figure: &'static str, words: &'static str, of_all: bool, limit: f64) -> Fitted {
    Fitted { figure, words, of_all, limit }
}

const FITTED: &[Fitted] = &[
    fitted("bytes_per_connection", "memory", true, LIMIT),
    fitted("connect_ns", "connecting all", true, LIMIT),
    fitted("delivery_ns", "a message to all", true, LIMIT_OF_TOUCHING),
    fitted("disconnect_ns", "disconnecting all", true, LIMIT_OF_TOUCHING),
    fitted("publish_ns", "a message to one other client", false, LIMIT_OF_ONE),
];

/// Measures each number of sessions and prints the figures. Fails if a cost grows faster than its limit allows.
pub fn run(runs: u32, file: Option<&Path>) -> Result<()> {
    let mut records = Vec::new();
    for run in 1..=runs {
        for sessions in NUMBERS {
            let figures = measured(sessions).with_context(|| format!("{sessions} sessions"))?;
            let record = Record { case: format!("{NAME}-{sessions}"), server: "oddswire".to_owned(), run, figures };
            file.map_or(Ok(()), |file| record::append(file, &record))?;
            records.push(record);
        }
    }
    table::print(&records);
    print!("\n{}", text(&records).context("too few points for a fit")?);
    let fast = exponents(&records).into_iter().find(|(fitted, exponent)| *exponent > fitted.limit);
    if let Some((Fitted { words, limit, .. }, exponent)) = fast {
        bail!("{words} grows with the power {}: expected at most {limit}", short(exponent));
    }
    Ok(())
}

/// Measures this number of sessions in this process, and prints the figures as JSON.
pub fn measure(sessions: u32) -> Result<()> {
    println!("{}", serde_json::to_string(&pipes::measure(sessions)?)?);
    Ok(())
}

fn measured(sessions: u32) -> Result<Figures> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new(program)
        .args(["in-process", "--only", &sessions.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start this program again")?;
    ensure!(output.status.success(), "the measurement failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// For each cost, the power of the number of sessions with which it grows.
fn exponents(records: &[Record]) -> Vec<(&'static Fitted, f64)> {
    let exponent = |fitted: &'static Fitted| {
        let mut points = points(records, fitted.figure, 1.0);
        if fitted.of_all {
            for (count, figure) in &mut points {
                *figure *= *count;
            }
        }
        Some((fitted, exponent(&points)?))
    };
    FITTED.iter().filter_map(exponent).collect()
}

/// The conclusion for the report; `None` if there are too few points for a fit.
pub fn text(records: &[Record]) -> Option<String> {
    let exponents = exponents(records);
    let line = |(fitted, exponent): &(&Fitted, f64)| {
        let met = if *exponent <= fitted.limit { "yes" } else { "no" };
        format!("| {} | {} | {} | {met} |\n", fitted.words, short(*exponent), fitted.limit)
    };
    let lines: String = exponents.iter().map(line).collect();
    let head = "| grows with the number of sessions | to the power of | at most | met |\n|---|--:|--:|---|\n";
    (!lines.is_empty()).then(|| head.to_owned() + &lines)
}

/// The panels of the plot.
pub fn curves(records: &[Record]) -> Vec<Curve> {
    let curve = |heading: &str, figure: &str, unit| {
        let points = points(records, figure, unit);
        Curve { heading: heading.to_owned(), fit: Fit::doubling(&points), points }
    };
    vec![
        curve("resident bytes of a session", "bytes_per_connection", 1.0),
        curve("CPU ns to connect one", "connect_ns", 1.0),
        curve("CPU ns per delivery, both ends of the pipe", "delivery_ns", 1.0),
        curve("CPU ns to publish to one other client", "publish_ns", 1.0),
        curve("CPU ns to disconnect one", "disconnect_ns", 1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sessions: f64, each: f64) -> Record {
        let mut figures = Figures::default();
        figures.set("connections", sessions);
        figures.set("connect_ns", each);
        Record { case: format!("{NAME}-{sessions}"), server: "oddswire".to_owned(), run: 1, figures }
    }

    #[test]
    fn growing_cost_of_each_session_exceeds_the_limit() {
        let text = text(&[record(10_000.0, 2.0), record(20_000.0, 2.0)]).expect("there are two points");
        assert!(text.ends_with("| connecting all | 1.00 | 1.1 | yes |\n"), "{text}");
        let text = self::text(&[record(10_000.0, 2.0), record(20_000.0, 4.0)]).expect("there are two points");
        assert!(text.ends_with("| connecting all | 2.00 | 1.1 | no |\n"), "{text}");
    }

    #[test]
    fn sessions_over_pipes_get_all_messages_and_end() {
        let figures = pipes::measure(20).expect("20 sessions need few resources");
        assert_eq!(figures.get("connections"), Some(20.0));
        assert!(figures.get("delivery_ns").is_some_and(|time| time > 0.0));
    }
}

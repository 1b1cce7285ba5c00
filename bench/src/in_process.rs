//! Whether anything of the server grows faster than the number of connections, by sessions without sockets.
//!
//! Each number of sessions gets a process of its own, since memory that was given back would be taken again unseen.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::curve::Curve;
use crate::fit::{Fit, exponent};
use crate::growth::points;
use crate::pipes;
use crate::record::{self, Figures, Record};
use crate::statistics::short;
use crate::table;

/// What the names of its cases begin with.
pub const NAME: &str = "sessions";

/// With what power of the number of connections something may grow: as that number, with a little for noise.
const LIMIT: f64 = 1.1;

/// A message to all touches the memory of every session once, in the order of a hash map, and so does disconnecting all.
/// That of few sessions fits into the processor's caches, and that of many does not, so that each takes longer although it
/// is the same instructions: for a delivery see `publish-to-100` and `publish-to-10000` among the operations.
const LIMIT_OF_TOUCHING: f64 = 1.35;

/// What does not concern the others may not depend on their number.
const LIMIT_OF_ONE: f64 = 0.1;

/// Something that is fitted.
struct Fitted {
    figure: &'static str,
    words: &'static str,
    /// Whether the figure is that of one session, of which all of them are wanted.
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

/// Measures each number of sessions, prints what came of it, and fails where something grows too fast.
pub fn run(numbers: &[u32], runs: u32, file: Option<&Path>) -> Result<()> {
    let mut records = Vec::new();
    for run in 1..=runs {
        for &sessions in numbers {
            let figures = measured(sessions).with_context(|| format!("{sessions} sessions"))?;
            let record = Record { case: format!("{NAME}-{sessions}"), server: "oddswire".to_owned(), run, figures };
            file.map_or(Ok(()), |file| record::append(file, &record))?;
            records.push(record);
        }
    }
    table::print(&records);
    print!("\n{}", text(&records).context("one number of sessions tells nothing of others")?);
    let fast = exponents(&records).into_iter().find(|(fitted, exponent)| *exponent > fitted.limit);
    ensure!(fast.is_none(), "{} grows too fast", fast.map_or("nothing", |(fitted, _)| fitted.words));
    Ok(())
}

/// Measures in this process, and says nothing but the figures.
pub fn measure(sessions: u32) -> Result<()> {
    println!("{}", serde_json::to_string(&pipes::measure(sessions)?)?);
    Ok(())
}

fn measured(sessions: u32) -> Result<Figures> {
    let program = std::env::current_exe().context("could not find this program")?;
    let output = Command::new(program)
        .args(["in-process", "--only", &sessions.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("could not start this program again")?;
    ensure!(output.status.success(), "the measurement failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// With what power of the number of sessions each grows.
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

/// What follows from the figures.
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

pub fn curves(records: &[Record]) -> Vec<Curve> {
    let curve = |heading: &str, figure: &str, unit| {
        let points = points(records, figure, unit);
        Curve { heading: heading.to_owned(), fit: Fit::doubling(&points), points }
    };
    vec![
        curve("resident bytes of a session", "bytes_per_connection", 1.0),
        curve("CPU ns to connect one", "connect_ns", 1.0),
        curve("CPU ns per delivery, both ends of the pipe", "delivery_ns", 1.0),
        curve("CPU ns to publish to one beside them", "publish_ns", 1.0),
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
    fn a_cost_of_each_session_that_grows_is_seen() {
        let text = text(&[record(10_000.0, 2.0), record(20_000.0, 2.0)]).expect("there are two points");
        assert!(text.ends_with("| connecting all | 1.00 | 1.1 | yes |\n"), "{text}");
        let text = self::text(&[record(10_000.0, 2.0), record(20_000.0, 4.0)]).expect("there are two points");
        assert!(text.ends_with("| connecting all | 2.00 | 1.1 | no |\n"), "{text}");
    }

    #[test]
    fn sessions_over_pipes_get_everything_and_end() {
        let figures = pipes::measure(20).expect("it is few");
        assert_eq!(figures.get("connections"), Some(20.0));
        assert!(figures.get("delivery_ns").is_some_and(|time| time > 0.0));
    }
}

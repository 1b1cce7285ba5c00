//! `RESULTS.md` and the plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::aims::AIMS;
use crate::curve;
use crate::growth;
use crate::in_process;
use crate::machine::{self, Machine};
use crate::plot;
use crate::record::{self, Record};
use crate::servers::Places;
use crate::table;

const INTRODUCTION: &str = "\
# Measurements

Written by `make bench` from the figures that it recorded; do not edit. Servers and load generator share one machine, so
only comparisons within this page mean anything. Cases and servers took turns, each in a new process. Figures are medians,
with the least and the most of all runs in parentheses.

- Latency is from the moment a publish was due to its receipt, by the load generator's clock, over all subscribers. Where
  messages are published as fast as they are taken (hot, ingest) there is no such moment, and it counts from the send.
- CPU is the processor time of the server and its worker processes while messages were published and delivered, and
  memory is their resident memory, without the kernel's socket buffers.
- Bursts of the recording (replay) go to oddswire in requests of up to 100 messages and to the peers, which know no batches,
  one by one.
- `skipped` is what the server told its subscribers that they would not get, `lost` what they missed without being told.
- Cores is the processor time for each second: of the server, of the load generator, and of everything else. Where the
  last one is more than a few hundredths, the machine was not left alone and the figures of that line are not to be trusted.
";

/// Writes everything into a directory.
pub fn write(from: &Path, to: &Path, places: &Places) -> Result<()> {
    let records = record::read(from)?;
    ensure!(!records.is_empty(), "{} has no measurements", from.display());
    let plots = to.join("plots");
    fs::create_dir_all(&plots).context("could not make the directory of the plots")?;
    let machine = Machine::this()?;
    let mut text = INTRODUCTION.to_owned();
    let _ = writeln!(text, "\n## The machine\n\n{}", machine::description(places)?);
    let _ = writeln!(text, "## Aims\n\n{}", aims(&records));
    for scenario in scenarios(&records) {
        let of_scenario: Vec<Record> =
            records.iter().filter(|record| scenario_of(record) == scenario).cloned().collect();
        let (drawing, conclusion) = drawn(&scenario, &of_scenario, &machine);
        fs::write(plots.join(format!("{scenario}.svg")), drawing)?;
        let _ = writeln!(text, "## {scenario}\n\n![{scenario}](plots/{scenario}.svg)\n\n{}", figures(&of_scenario));
        text.extend(conclusion.map(|conclusion| conclusion + "\n"));
    }
    fs::write(to.join("RESULTS.md"), text.trim_end().to_owned() + "\n").context("could not write RESULTS.md")
}

/// The plot of a scenario, and what follows from its figures where that is more than they say themselves.
fn drawn(scenario: &str, records: &[Record], machine: &Machine) -> (String, Option<String>) {
    match scenario {
        growth::NAME => (curve::svg(scenario, &growth::curves(records)), growth::text(records, machine)),
        in_process::NAME => (curve::svg(scenario, &in_process::curves(records)), in_process::text(records)),
        _ => (plot::svg(scenario, records), None),
    }
}

/// The scenarios in the order of their first record.
fn scenarios(records: &[Record]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in records {
        let name = scenario_of(record);
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The names of cases begin with the name of their scenario, which has no hyphen.
fn scenario_of(record: &Record) -> &str {
    record.case.split('-').next().unwrap_or_default()
}

fn aims(records: &[Record]) -> String {
    let mut lines = vec!["| figure of oddswire | against | aim | measured | met |".to_owned()];
    lines.push("|---|---|---|---|---|".to_owned());
    for aim in AIMS {
        let (figure, against, limit) = aim.question();
        let outcome = aim.outcome(records);
        let measured = outcome.map_or_else(|| "not measured".to_owned(), table::shown);
        let met = outcome.map_or("", |outcome| if aim.is_met(&outcome) { "yes" } else { "no" });
        lines.push(format!("| {figure} | {against} | {limit} | {measured} | {met} |"));
    }
    lines.join("\n") + "\n"
}

/// One line for each case and server.
fn figures(records: &[Record]) -> String {
    let columns = table::columns(records);
    let mut headings = vec!["case".to_owned(), "server".to_owned(), "runs".to_owned()];
    headings.extend(columns.iter().map(|column| column.heading.to_owned()));
    let mut lines = vec![format!("| {} |", headings.join(" | "))];
    lines.push(format!("|---|---|{}", "--:|".repeat(columns.len() + 1)));
    for row in table::rows(records, &columns) {
        let runs = row.cells.iter().flatten().map(|cell| cell.runs).max().unwrap_or_default();
        let cells = row.cells.into_iter().map(|cell| cell.map_or_else(String::new, table::shown));
        let cells: Vec<String> = cells.collect();
        lines.push(format!("| {} | {} | {} | {} |", row.case, row.server, runs, cells.join(" | ")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    #[test]
    fn a_scenario_gets_a_section_with_a_line_for_each_server() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let from = directory.path().join("records");
        for (server, value) in [("oddswire", 1000.0), ("nchan", 2000.0)] {
            let mut figures = Figures::default();
            figures.set("p99_us", value);
            let record = Record { case: "light-ws".to_owned(), server: server.to_owned(), run: 1, figures };
            record::append(&from, &record)?;
        }
        let places = Places { bench: Path::new("nowhere"), python: None, nginx: "no-such-program" };
        write(&from, directory.path(), &places)?;
        let text = fs::read_to_string(directory.path().join("RESULTS.md"))?;
        assert!(text.contains("| light-ws | nchan | 1 | 2.00 |"), "{text}");
        assert!(text.contains("| light-ws: p99_us | the better of nchan and stock-warp | at most 1 | 0.500 | yes |"));
        assert!(directory.path().join("plots/light.svg").exists());
        Ok(())
    }
}

//! Writes `RESULTS.md` and the plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::aims::AIMS;
use crate::figures::machine::{self, Machine};
use crate::figures::record::{self, Record};
use crate::figures::{curve, plot, table};
use crate::questions::{growth, sessions};

const INTRODUCTION: &str = "\
# Measurements

`make bench` writes this page; do not edit it. Servers and load generator share one machine, so compare figures only
within this page. Cases and servers took turns, each in a new process. Figures are medians, with the least and the greatest
of all runs in parentheses.

- Latency is the time from the moment when a publish was due to its receipt, by the load generator's clock, over all
  subscribers. In `hot` and `engines-hot`, messages are published as fast as the server takes them. There, latency begins
  when the load generator sends the publish.
- CPU is the processor time of the server and its worker processes while messages were published and delivered. Memory is
  their resident memory, without the kernel's socket buffers.
- `skipped` counts messages that the server reported as skipped to its subscribers. `lost` counts missing messages that it
  did not report.
- Cores is the processor time for each second: of the server, of the load generator, and of all other processes. If the
  last one is more than a few hundredths, other work disturbed the measurement. Do not trust the figures of that line.
";

/// Writes the report on the records in `from` into the folder `to`. `python` is the interpreter that runs the peer
/// fastapi.
pub fn write(from: &Path, to: &Path, python: Option<&str>) -> Result<()> {
    let records = record::read(from)?;
    ensure!(!records.is_empty(), "{} has no records: expected at least one", from.display());
    let plots = to.join("plots");
    fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    let machine = Machine::this()?;
    let mut text = INTRODUCTION.to_owned();
    let _ = writeln!(text, "\n## The machine\n\n{}", machine::description(python)?);
    let _ = writeln!(text, "## Aims\n\n{}", aims(&records));
    for question in questions(&records) {
        let of_question: Vec<Record> =
            records.iter().filter(|record| question_of(record) == question).cloned().collect();
        let (drawing, conclusion) = drawn(&question, &of_question, &machine);
        fs::write(plots.join(format!("{question}.svg")), drawing)?;
        let _ = writeln!(text, "## {question}\n\n![{question}](plots/{question}.svg)\n\n{}", figures(&of_question));
        text.extend(conclusion.map(|conclusion| conclusion + "\n"));
    }
    fs::write(to.join("RESULTS.md"), text.trim_end().to_owned() + "\n").context("cannot write RESULTS.md")
}

/// Draws the plot of a question. Some questions also have a conclusion in words.
fn drawn(question: &str, records: &[Record], machine: &Machine) -> (String, Option<String>) {
    match question {
        growth::NAME => (curve::svg(question, &growth::curves(records)), growth::text(records, machine)),
        sessions::NAME => (curve::svg(question, &sessions::curves(records)), sessions::text(records)),
        _ => (plot::svg(question, records), None),
    }
}

/// The names of all questions with records, in the order of each question's first record.
fn questions(records: &[Record]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in records {
        let name = question_of(record);
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The name of a case begins with the name of its question, which has no hyphen.
fn question_of(record: &Record) -> &str {
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

/// A table with one line for each case and server.
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
    use crate::figures::record::Figures;

    #[test]
    fn report_has_a_section_per_question_and_a_line_per_server() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let from = directory.path().join("records");
        for (server, value) in [("oddswire", 1000.0), ("nchan", 2000.0)] {
            let mut figures = Figures::default();
            figures.set("p99_us", value);
            let record = Record { case: "light".to_owned(), server: server.to_owned(), run: 1, figures };
            record::append(&from, &record)?;
        }
        write(&from, directory.path(), None)?;
        let text = fs::read_to_string(directory.path().join("RESULTS.md"))?;
        assert!(text.contains("| light | nchan | 1 | 2.00 |"), "{text}");
        assert!(text.contains("| light: p99_us | the better of nchan and stock-warp | at most 1 | 0.500 | yes |"));
        assert!(directory.path().join("plots/light.svg").exists());
        Ok(())
    }
}

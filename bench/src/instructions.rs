//! Instruction and allocation counts of the operations in memory, by valgrind.
//!
//! A count is the same on a busy machine as on a quiet one, which no time is, so that a small loss shows. What starting
//! the program and preparing the operation take is the same however often the operation is done: the difference
//! between two runs is the operation alone.

use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use crate::operations::{OPERATIONS, Operation};
use crate::record::{self, Figures, Record};
use crate::statistics::to_f64;

/// Valgrind runs a program on one thread at a time; on two cores two of them run side by side.
const SIDE_BY_SIDE: usize = 2;

/// The argument of this program that does an operation; a subcommand of its own.
pub const OPERATION: &str = "operation";

/// What valgrind counts, and how it says so.
struct Counter {
    figure: &'static str,
    arguments: &'static [&'static str],
    before: &'static str,
}

const COUNTERS: &[Counter] = &[
    Counter {
        figure: "instructions",
        arguments: &["--tool=callgrind", "--callgrind-out-file=/dev/null"],
        before: "Collected :",
    },
    Counter {
        figure: "allocations",
        arguments: &["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"],
        before: "total heap usage:",
    },
];

/// Does an operation, for valgrind to count.
pub fn perform(name: &str, times: u32) -> Result<()> {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    let mut run = (operation.with_context(|| format!("there is no operation {name}"))?.prepare)();
    (0..times).for_each(|_| run());
    Ok(())
}

/// Counts all operations, and adds the counts to a file.
pub fn measure(file: Option<&Path>) -> Result<Vec<Record>> {
    let gated: Vec<&Operation> = OPERATIONS.iter().filter(|operation| operation.gated > 0).collect();
    let counted = thread::scope(|scope| {
        let share = |first: usize| gated.iter().skip(first).step_by(SIDE_BY_SIDE).map(|operation| count(operation));
        let threads: Vec<_> =
            (0..SIDE_BY_SIDE).map(|first| scope.spawn(move || share(first).collect::<Result<Vec<_>>>())).collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<Vec<Record>>>>()
    })?;
    // In the order of the operations again.
    let mut shares: Vec<_> = counted.into_iter().map(Vec::into_iter).collect();
    let records: Vec<Record> = (0..gated.len()).filter_map(|index| shares[index % SIDE_BY_SIDE].next()).collect();
    for record in &records {
        file.map_or(Ok(()), |file| record::append(file, record))?;
    }
    Ok(records)
}

fn count(operation: &Operation) -> Result<Record> {
    let mut figures = Figures::default();
    for counter in COUNTERS {
        let few = counter.read(operation.name, operation.gated)?;
        let many = counter.read(operation.name, 3 * operation.gated)?;
        let times = 2.0 * f64::from(operation.gated);
        figures.set(counter.figure, to_f64(many.saturating_sub(few)) / times);
    }
    Ok(Record { case: format!("operation-{}", operation.name), server: "oddswire".to_owned(), run: 1, figures })
}

impl Counter {
    fn read(&self, operation: &str, times: u32) -> Result<u64> {
        let program = std::env::current_exe().context("could not find this program")?;
        let output = Command::new("valgrind")
            .args(self.arguments)
            .arg(program)
            .args([OPERATION, operation, &times.to_string()])
            .output()
            .context("could not start valgrind, which Debian has as a package of that name")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{operation} failed under valgrind: {said}");
        number_after(&said, self.before).with_context(|| format!("valgrind told no {}: {said}", self.figure))
    }
}

/// The number that follows a text, in which commas may part the thousands.
fn number_after(text: &str, before: &str) -> Option<u64> {
    let (_, rest) = text.split_once(before)?;
    let word = rest.split_whitespace().next()?;
    word.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrind_is_understood() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7==   total heap usage: 1,068 allocs, 3 frees";
        let read: Vec<Option<u64>> = COUNTERS.iter().map(|counter| number_after(said, counter.before)).collect();
        assert_eq!(read, [Some(1_234_567), Some(1_068)]);
        assert_eq!(number_after("==7== Collected : many", COUNTERS[0].before), None);
    }

    #[test]
    fn every_operation_can_be_done() {
        for operation in OPERATIONS.iter().filter(|operation| operation.gated > 0) {
            perform(operation.name, 3).expect("it is one of them");
        }
        assert!(perform("no such operation", 1).is_err());
    }
}

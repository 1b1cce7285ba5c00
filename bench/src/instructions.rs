//! How many instructions and allocations does each operation take?
//!
//! Valgrind counts the instructions and allocations. Unlike times, counts do not depend on other programs, so counts
//! show small losses. The cost of starting the program and preparing the operation does not depend on the number of
//! repetitions. So the difference between two runs with different numbers of repetitions is the cost of the operation
//! alone.

use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use oddswire_bench::operations::{OPERATIONS, Operation};

use crate::figures::record::{self, Figures, Record};
use crate::figures::statistics::to_f64;

/// The number of valgrind processes that run at the same time. Each uses one core, because valgrind runs one thread at
/// a time.
const SIDE_BY_SIDE: usize = 2;

/// The beginning of the case names in the records of this file.
pub const PREFIX: &str = "operation-";

/// The hidden subcommand that runs an operation.
const OPERATION: &str = "operation";

/// The valgrind tool that counts a figure, and the text before the count in the tool's output.
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

/// Runs an operation `times` times.
pub fn perform(name: &str, times: u32) -> Result<()> {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    let mut run = (operation
        .with_context(|| format!("unknown operation '{name}': expected a name from bench/src/operations.rs"))?
        .prepare)();
    (0..times).for_each(|_| run());
    Ok(())
}

/// Counts the instructions and allocations of all operations, and appends the counts to a file.
pub fn measure(file: Option<&Path>) -> Result<Vec<Record>> {
    let counted = thread::scope(|scope| {
        let share = |first: usize| OPERATIONS.iter().skip(first).step_by(SIDE_BY_SIDE).map(count);
        let threads: Vec<_> =
            (0..SIDE_BY_SIDE).map(|first| scope.spawn(move || share(first).collect::<Result<Vec<_>>>())).collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<Vec<Record>>>>()
    })?;
    // Each thread counted every second operation. Restores the order of the operations.
    let mut shares: Vec<_> = counted.into_iter().map(Vec::into_iter).collect();
    let records: Vec<Record> = (0..OPERATIONS.len()).filter_map(|index| shares[index % SIDE_BY_SIDE].next()).collect();
    for record in &records {
        file.map_or(Ok(()), |file| record::append(file, record))?;
    }
    Ok(records)
}

fn count(operation: &Operation) -> Result<Record> {
    let mut figures = Figures::default();
    for counter in COUNTERS {
        let few = counter.read(operation.name, operation.times)?;
        let many = counter.read(operation.name, 3 * operation.times)?;
        let times = 2.0 * f64::from(operation.times);
        figures.set(counter.figure, to_f64(many.saturating_sub(few)) / times);
    }
    Ok(Record { case: format!("{PREFIX}{}", operation.name), server: "oddswire".to_owned(), run: 1, figures })
}

impl Counter {
    fn read(&self, operation: &str, times: u32) -> Result<u64> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let output = Command::new("valgrind")
            .args(self.arguments)
            .arg(program)
            .args([OPERATION, operation, &times.to_string()])
            .output()
            .context("cannot start valgrind: expected the Debian package valgrind")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{operation} failed under valgrind: {said}");
        number_after(&said, self.before)
            .with_context(|| format!("the output of valgrind has no {}: {said}", self.figure))
    }
}

/// Finds the number that follows a text. The number may have commas between the thousands.
fn number_after(text: &str, before: &str) -> Option<u64> {
    let (_, rest) = text.split_once(before)?;
    let word = rest.split_whitespace().next()?;
    word.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_output_of_valgrind() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7==   total heap usage: 1,068 allocs, 3 frees";
        let read: Vec<Option<u64>> = COUNTERS.iter().map(|counter| number_after(said, counter.before)).collect();
        assert_eq!(read, [Some(1_234_567), Some(1_068)]);
        assert_eq!(number_after("==7== Collected : many", COUNTERS[0].before), None);
    }

    #[test]
    fn every_operation_runs() {
        for operation in OPERATIONS {
            perform(operation.name, 3).expect("the operation has this name");
        }
        assert!(perform("no such operation", 1).is_err());
    }
}

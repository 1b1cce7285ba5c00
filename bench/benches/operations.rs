//! How long does each operation of the hot paths take? `cargo bench` times all operations, and `cargo bench -- publish`
//! those with `publish` in their name.
//!
//! `make bench-quick` counts the instructions of the same operations and fails when the counts grow. Use the times
//! while you optimise an operation, on an otherwise idle machine.

use criterion::{Criterion, criterion_group, criterion_main};
use oddswire_bench::operations::OPERATIONS;

fn all(criterion: &mut Criterion) {
    for operation in OPERATIONS {
        criterion.bench_function(operation.name, |bencher| bencher.iter((operation.prepare)()));
    }
}

criterion_group!(benches, all);
criterion_main!(benches);

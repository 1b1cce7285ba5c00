//! What the operations of the hot paths take, by the clock. `cargo bench`, or one of them: `cargo bench -- publish`.
//!
//! The same operations have their instructions counted by `make bench-quick`, which fails where they grow; a time is
//! for the work on them, on a machine that is otherwise idle.

#![expect(
    dead_code,
    unreachable_pub,
    reason = "the modules are also those of another program, which has more use for them"
)]

#[path = "../bench/src/operations.rs"]
mod operations;
#[path = "../bench/src/served.rs"]
mod served;

use criterion::{Criterion, criterion_group, criterion_main};

fn all(criterion: &mut Criterion) {
    for operation in operations::OPERATIONS {
        criterion.bench_function(operation.name, |bencher| bencher.iter((operation.prepare)()));
    }
}

criterion_group!(benches, all);
criterion_main!(benches);

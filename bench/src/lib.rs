//! The operations that the gate counts and Criterion times. Everything else is in the program.

pub mod operations;
mod served;

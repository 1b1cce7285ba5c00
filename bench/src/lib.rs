//! The operations that the gate counts and Criterion times. All other code of the benchmark is in the program
//! `oddswire-bench`.

pub mod operations;
mod served;

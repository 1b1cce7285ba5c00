//! The commands of the program, each run as a separate process.

mod demo;
mod publish;
mod replay;
mod shell;
mod tail;
mod top;

//! The commands at a terminal: each runs as a process of its own.

mod demo;
mod publish;
mod replay;
mod shell;
mod tail;
mod top;

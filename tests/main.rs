//! The integration tests, in one binary: the real server on port 0, and real clients. Each folder is a subject, and
//! each file in a folder is a behaviour.

// No other crate uses this test binary, so everything in the binary may be `pub`.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "a test owns the tasks that it spawns, and reads its environment")]

mod harness;

#[cfg(feature = "cli")]
mod commands;
mod console;
mod engines;
mod operations;
mod program;
mod publishers;
mod subscribers;

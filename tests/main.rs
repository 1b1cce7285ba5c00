//! One binary: the real server on port 0, real clients. One folder a subject, one file a behaviour.

// A test binary has no outside: everything in it may be `pub`.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "a test owns the tasks that it spawns, and reads its environment")]

mod harness;

mod commands;
mod console;
mod engines;
mod operations;
mod program;
mod publishers;
mod subscribers;

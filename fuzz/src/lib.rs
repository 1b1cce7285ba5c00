//! The properties that hold for every input, as functions of bytes. Each panics when a property is violated.
//!
//! Each file is the body of one fuzz target. A test of the root package runs the same functions on the seeds.

pub mod client_message;
pub mod forwarded;
pub mod handshake;
pub mod position;
pub mod publish_body;
pub mod query;
mod service;
pub mod token;
pub mod topic;

/// A check of one input.
pub type Check = fn(&[u8]);

/// Every check with the name of its target, which is also the name of the folder with its seeds.
pub const CHECKS: [(&str, Check); 8] = [
    ("client_message", client_message::check),
    ("forwarded", forwarded::check),
    ("handshake", handshake::check),
    ("position", position::check),
    ("publish_body", publish_body::check),
    ("query", query::check),
    ("token", token::check),
    ("topic", topic::check),
];

/// Checks that an error text is short, and fits into one line of a log.
fn check_detail(detail: &str) {
    assert!(!detail.is_empty(), "an error has a text");
    assert!(detail.len() <= 2_000, "an error text of {} bytes", detail.len());
    assert!(!detail.contains(char::is_control), "an error text has control characters: {detail:?}");
}

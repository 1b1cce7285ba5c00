//! Checks properties that must hold for every input. Each check takes the bytes of an input, and panics if a property
//! does not hold.
//!
//! Each file except `service` has the check of one fuzz target. A test of the root package runs the same checks on the
//! seeds (tests/program/corpora.rs).

pub mod client_message;
pub mod forwarded;
pub mod handshake;
pub mod position;
pub mod publish_body;
pub mod query;
mod service;
pub mod token;
pub mod topic;

/// Checks one input.
pub type Check = fn(&[u8]);

/// All checks, each with the name of its fuzz target. The folder with the target's seeds has the same name.
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

/// Checks that an error text is neither empty nor longer than 2,000 bytes, and fits into one line of a log.
fn check_detail(detail: &str) {
    assert!(!detail.is_empty(), "an error has a text");
    assert!(detail.len() <= 2_000, "an error text of {} bytes", detail.len());
    assert!(!detail.contains(char::is_control), "an error text has control characters: {detail:?}");
}

//! What holds for every input, as functions of bytes: the bodies of the fuzz targets, which a plain test replays over
//! the seeds too. One file a target; a violated property is a panic.

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

/// Every check, by the name of its target and of the directory with its seeds.
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

/// A refusal is never as large as what may cause it, and fits a line of a log.
fn check_detail(detail: &str) {
    assert!(!detail.is_empty(), "a refusal says what was wrong");
    assert!(detail.len() <= 2_000, "a refusal of {} bytes", detail.len());
    assert!(!detail.contains(char::is_control), "a refusal breaks the line: {detail:?}");
}

//! Checks positions, the parameter `since`, and the catch-up of a client that resumes at a position.

use oddswire::log::Since;
use oddswire::manager::{Connect, ConnectionManager};
use oddswire::message::{Payload, Position};
use oddswire::outbox::Outgoing;
use serde_json::Value;
use serde_json::value::RawValue;

use super::service::{drain, manager};

/// The number of messages that the check publishes. The history of a topic holds fewer.
const PUBLISHED: u64 = 9;

/// Parses the input as a position and as a value of `since`.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let position = text.parse::<Position>();
    match &position {
        Ok(position) => {
            assert_eq!(position.to_string().parse(), Ok(*position), "a position reads back as written");
            assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b'-') && text.matches('-').count() == 1);
        }
        Err(error) => super::check_detail(&error.to_string()),
    }
    match text.parse::<Since>() {
        Ok(Since::Now) => assert_eq!(text, "now"),
        Ok(Since::Snapshot) => assert_eq!(text, "snapshot"),
        Ok(Since::Position(since)) => {
            assert_eq!(position, Ok(since));
            resume(since);
        }
        Err(error) => super::check_detail(&error.to_string()),
    }
}

/// Checks the catch-up of a client that resumes at `since`: messages arrive in order and once, up to the newest
/// message.
fn resume(since: Position) {
    let manager = manager();
    publish(&manager);
    let now = manager.position();
    let wanted = Connect { since: Since::Position(since), ..Connect::all() };
    let (connection, mut receiver) = manager.connect(wanted);
    let sent = drain(&connection, &mut receiver);

    let offsets: Vec<u64> = sent
        .iter()
        .filter_map(|item| match item {
            Outgoing::Message(message) | Outgoing::Missed(message) => Some(message.position().offset),
            _ => None,
        })
        .collect();
    assert!(offsets.is_sorted_by(|one, next| one < next), "messages arrive in order and once: {offsets:?}");
    let kinds: Vec<String> = sent.iter().filter_map(kind).collect();
    assert_eq!(kinds.first().map(String::as_str), Some("connection_ack"));
    if since == now {
        assert!(offsets.is_empty(), "no message was missed, but {offsets:?} arrived");
        return;
    }
    assert_eq!(kinds.last().map(String::as_str), Some("caught_up"), "{kinds:?}");
    if since.epoch == now.epoch && since.offset < now.offset {
        assert!(offsets.iter().all(|offset| *offset > since.offset) || kinds.iter().any(|kind| kind == "catch_up"));
        assert_eq!(offsets.last(), Some(&now.offset), "the newest message arrives");
    }
}

fn publish(manager: &ConnectionManager) {
    for number in 0..PUBLISHED {
        let topic = if number % 3 == 0 { "scrape_progress" } else { "odds_updates" };
        let data = RawValue::from_string(number.to_string()).expect("a number is JSON");
        let payload = match number % 3 {
            0 => Payload::new(data),
            key => Payload::keyed(format!("8301/{key}").parse().expect("a key"), data),
        };
        let topic = manager.topics().get(topic).expect("the topic is configured");
        manager.broadcast(payload, topic).expect("the log has room");
    }
}

fn kind(item: &Outgoing) -> Option<String> {
    let json: Value = serde_json::from_slice(item.frames()?.text()).expect("a message is JSON");
    json["type"].as_str().map(str::to_owned)
}

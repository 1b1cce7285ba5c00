//! Messages, their positions, and their encoded bytes.
//!
//! Invariant: the server encodes each message once. The WebSocket frame and the SSE event of a message share one
//! allocation, which all outboxes and the log point to. A message never changes after its construction.
//!
//! - `frames`: the bytes for both transports.
//! - `position`: the place of a message in the sequence.
//! - `timestamp`: moments, in Unix milliseconds.

mod frames;
mod position;
mod timestamp;

use std::io::Write as _;
use std::sync::Arc;

use serde_json::value::RawValue;

use self::frames::index;
pub use self::frames::{Frames, Opcode};
pub use self::position::{Position, PositionError};
pub use self::timestamp::Timestamp;
use crate::topic::{Key, Topic};

/// The types of control messages. A publisher's message cannot have one of them.
pub const RESERVED_TYPES: [&str; 10] = [
    "auth",
    "auth_ack",
    "connection_ack",
    "subscription_update",
    "ping",
    "pong",
    "error",
    "catch_up",
    "caught_up",
    "reconnect",
];

/// The part of a message that the publisher sets: everything except topic, position and timestamp.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The path inside the topic. The data of a keyed message is the complete state of its key.
    pub key: Option<Key>,
    /// The envelope's `type`. Without one, the envelope gets the topic's name.
    pub kind: Option<String>,
    /// The publisher's data, which clients receive byte for byte. With a key, `null` deletes the key.
    pub data: Box<RawValue>,
    /// When the server deletes the key.
    pub expires_at: Option<Timestamp>,
}

impl Payload {
    /// Makes a payload without a key.
    #[must_use]
    pub fn new(data: Box<RawValue>) -> Self {
        Self { key: None, kind: None, data, expires_at: None }
    }

    /// Makes a payload whose data is the complete state of `key`.
    #[must_use]
    pub fn keyed(key: Key, data: Box<RawValue>) -> Self {
        Self { key: Some(key), ..Self::new(data) }
    }

    /// Makes a payload that deletes `key`.
    #[must_use]
    pub fn deletion(key: Key) -> Self {
        Self::keyed(key, RawValue::NULL.to_owned())
    }

    /// Whether this payload deletes its key.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.key.is_some() && self.data.get() == "null"
    }
}

/// One message to publish: a payload and its topic.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The topic of the message.
    pub topic: Topic,
    /// Everything that the publisher sets except the topic.
    pub payload: Payload,
}

/// A published message with its position: immutable and shared.
#[derive(Debug)]
pub struct Message {
    topic: Topic,
    key: Option<Key>,
    position: Position,
    timestamp: Timestamp,
    frames: Frames,
    /// The length of `data` in bytes. `data` ends right before the closing brace of the JSON text.
    data_length: u32,
}

impl Message {
    /// Encodes a draft, with the position and timestamp that the log gave the message.
    #[must_use]
    pub fn new(draft: &Draft, position: Position, timestamp: Timestamp) -> Arc<Self> {
        let Draft { topic, payload } = draft;
        let data = payload.data.get();
        let mut json = Vec::with_capacity(data.len() + 192);
        json.extend_from_slice(b"{\"type\":");
        write_string(&mut json, payload.kind.as_deref().unwrap_or(topic.as_str()));
        write!(json, ",\"topic\":\"{topic}\",\"id\":\"{position}\"").expect("writing to memory does not fail");
        if let Some(key) = &payload.key {
            json.extend_from_slice(b",\"key\":");
            write_string(&mut json, key.as_str());
        }
        write!(json, ",\"timestamp\":\"{timestamp}\",\"data\":").expect("writing to memory does not fail");
        json.extend_from_slice(data.as_bytes());
        json.push(b'}');
        Arc::new(Self {
            topic: topic.clone(),
            key: payload.key.clone(),
            position,
            timestamp,
            frames: Frames::json(&json, Some(position)),
            data_length: index(data.len()),
        })
    }

    /// The topic of the message.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The key; `None` for a keyless message.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// The place of the message in the sequence.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The offset of the message's position.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.position.offset
    }

    /// When the server accepted the message.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The encoded bytes of the message.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The data that the publisher sent, byte for byte.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        let text = self.frames.text();
        let end = text.len() - 1;
        &text[end - self.data_length as usize..end]
    }

    /// Whether this message deletes its key.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.key.is_some() && self.data() == b"null"
    }
}

/// Writes `text` as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string always serialises, and writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(key: Option<&str>, data: &str) -> Arc<Message> {
        let payload = Payload {
            key: key.map(|key| key.parse().unwrap()),
            kind: Some("odds_update".to_owned()),
            data: RawValue::from_string(data.to_owned()).unwrap(),
            expires_at: None,
        };
        let draft = Draft { topic: "odds_updates".parse().unwrap(), payload };
        let position = Position { epoch: 1_763_849_000_000, offset: 43 };
        Message::new(&draft, position, Timestamp::from_millis(1_763_849_000_123))
    }

    fn event(frames: &Frames) -> String {
        let mut out = Vec::new();
        frames.write_event(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_the_envelope_of_the_protocol() {
        let message = message(Some("8301/\"x\""), r#"{"price" : 1.50}"#);
        let text = r#"{"type":"odds_update","topic":"odds_updates","id":"1763849000000-43","key":"8301/\"x\"","timestamp":"2025-11-22T22:03:20.123Z","data":{"price" : 1.50}}"#;
        assert_eq!(message.frames().text(), text.as_bytes());
        assert_eq!(message.data(), br#"{"price" : 1.50}"#);
        assert_eq!(event(message.frames()), format!("id: 1763849000000-43\ndata: {text}\n\n"));
    }

    #[test]
    fn each_line_of_the_data_becomes_a_data_line_of_the_event() {
        for data in ["[1,\n2]", "[1,\r2]", "[1,\r\n2]"] {
            let message = message(None, data);
            assert_eq!(message.data(), data.as_bytes());
            assert!(event(message.frames()).ends_with("\"data\":[1,\ndata: 2]}\n\n"), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn envelope_is_valid_json_for_any_key(key in "[^/\\p{Cc}]{1,20}") {
            let message = message(Some(&key), "1");
            let value: serde_json::Value = serde_json::from_slice(message.frames().text()).unwrap();
            prop_assert_eq!(&value["key"], &key);
        }
    }
}

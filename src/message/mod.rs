//! Messages, their positions, and the bytes that carry them.
//!
//! Invariant: a message is encoded once. Its WebSocket frame and its SSE event share one allocation, which every
//! subscriber and the log point to; nothing is changed after construction.
//!
//! - `frames`: the bytes.
//! - `position`, `timestamp`: where and when.

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

/// What a publisher says: everything of a message but its topic, position and timestamp.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The path inside the topic. A keyed message carries the full state of its key.
    pub key: Option<Key>,
    /// The envelope's `type`; the topic's name where there is none.
    pub kind: Option<String>,
    /// Reaches subscribers byte for byte. `null` with a key deletes the key.
    pub data: Box<RawValue>,
    /// From this moment the key no longer belongs to the state.
    pub expires_at: Option<Timestamp>,
}

impl Payload {
    /// A keyless payload.
    #[must_use]
    pub fn new(data: Box<RawValue>) -> Self {
        Self { key: None, kind: None, data, expires_at: None }
    }

    /// A payload that carries the full state of `key`.
    #[must_use]
    pub fn keyed(key: Key, data: Box<RawValue>) -> Self {
        Self { key: Some(key), ..Self::new(data) }
    }

    /// The payload that deletes `key`.
    #[must_use]
    pub fn deletion(key: Key) -> Self {
        Self::keyed(key, RawValue::NULL.to_owned())
    }

    /// Whether it deletes its key.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.key.is_some() && self.data.get() == "null"
    }
}

/// A payload and the topic that it goes to: one message to publish.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it goes.
    pub topic: Topic,
    /// What it says.
    pub payload: Payload,
}

/// A published message with its place in the log: immutable and shared.
#[derive(Debug)]
pub struct Message {
    topic: Topic,
    key: Option<Key>,
    position: Position,
    timestamp: Timestamp,
    frames: Frames,
    /// Length of `data` in the JSON text; it ends before the closing brace.
    data_length: u32,
}

impl Message {
    /// Encodes what was published at the place that the log gave it.
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

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The path inside the topic.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Its place in the sequence.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its number in the epoch.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.position.offset
    }

    /// When the log took it.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The bytes that carry it.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// What was published, byte for byte.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        let text = self.frames.text();
        let end = text.len() - 1;
        &text[end - self.data_length as usize..end]
    }

    /// Whether it deletes its key.
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
    fn a_message_is_the_envelope_of_the_contract() {
        let message = message(Some("8301/\"x\""), r#"{"price" : 1.50}"#);
        let text = r#"{"type":"odds_update","topic":"odds_updates","id":"1763849000000-43","key":"8301/\"x\"","timestamp":"2025-11-22T22:03:20.123Z","data":{"price" : 1.50}}"#;
        assert_eq!(message.frames().text(), text.as_bytes());
        assert_eq!(message.data(), br#"{"price" : 1.50}"#);
        assert_eq!(event(message.frames()), format!("id: 1763849000000-43\ndata: {text}\n\n"));
    }

    #[test]
    fn line_breaks_in_the_data_become_lines_of_the_event() {
        for data in ["[1,\n2]", "[1,\r2]", "[1,\r\n2]"] {
            let message = message(None, data);
            assert_eq!(message.data(), data.as_bytes());
            assert!(event(message.frames()).ends_with("\"data\":[1,\ndata: 2]}\n\n"), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn the_envelope_is_json_whatever_the_key(key in "[^/\\p{Cc}]{1,20}") {
            let message = message(Some(&key), "1");
            let value: serde_json::Value = serde_json::from_slice(message.frames().text()).unwrap();
            prop_assert_eq!(&value["key"], &key);
        }
    }
}

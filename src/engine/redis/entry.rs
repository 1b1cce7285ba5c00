//! Entries of the stream and values of the states, and their conversion to messages of the log.

use std::str::FromStr;

use redis::Value;
use serde_json::value::RawValue;
use slog::{Logger, warn};

use crate::engine::Broadcast;
use crate::log::{Change, LogEntry};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Key, Topic, Topics};

/// An entry of the stream.
#[derive(Debug)]
pub(super) struct StreamEntry {
    pub(super) position: Position,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl StreamEntry {
    fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
    }

    fn text(&self, name: &[u8]) -> Option<&str> {
        std::str::from_utf8(self.field(name)?).ok()
    }

    /// Identifies the batch that wrote the entry. Empty if the entry opens an epoch.
    pub(super) fn nonce(&self) -> &str {
        self.text(b"n").unwrap_or_default()
    }

    /// The offset of the message before this entry. An entry that opens an epoch is not a message: its own offset is
    /// that of the message before it.
    pub(super) fn before(&self) -> u64 {
        let offset = self.position.offset;
        if self.opens() { offset } else { offset.saturating_sub(1) }
    }

    fn opens(&self) -> bool {
        self.field(b"o").is_some()
    }

    /// Converts the entry for the log. An entry that is not a message of a configured topic only advances the offset.
    /// If its format is unknown, another program wrote it, and a warning is logged.
    pub(super) fn step(&self, topics: &Topics, logger: &Logger) -> LogEntry {
        if let Some(entry) = self.message(topics) {
            return entry;
        }
        let known = self.text(b"t").is_none_or(|topic| topics.get(topic).is_some());
        if known && !self.opens() {
            warn!(logger, "redis.foreign_entry"; "position" => %self.position);
        }
        LogEntry::Passed(self.position.offset)
    }

    /// Converts an entry of the broadcast stream. `None` if its format is unknown.
    pub(super) fn broadcast(&self) -> Option<Broadcast> {
        let data = RawValue::from_string(self.text(b"d")?.to_owned()).ok()?;
        // The entry's id begins with the time of the broker's clock, so all nodes use the same time.
        let at = Timestamp::from_millis(i64::try_from(self.position.epoch).ok()?);
        Some(Broadcast { kind: self.text(b"b")?.to_owned(), data, at })
    }

    /// Converts the entry for the log, if it is a message of a configured topic.
    pub(super) fn message(&self, topics: &Topics) -> Option<LogEntry> {
        let value = Stored {
            offset: self.position.offset,
            at: number(self.text(b"s")?)?,
            kind: self.text(b"y").unwrap_or_default(),
            data: self.text(b"d")?,
        };
        let key = self.text(b"k").map(Key::from_str).transpose().ok()?;
        Some(LogEntry::Message(value.change(topics.get(self.text(b"t")?)?, key, self.position.epoch)?))
    }
}

/// A message as the broker stores it.
struct Stored<'a> {
    offset: u64,
    at: i64,
    kind: &'a str,
    data: &'a str,
}

impl Stored<'_> {
    /// Converts the message without its expiry, because a script in the broker deletes expired keys.
    fn change(&self, topic: &Topic, key: Option<Key>, epoch: u64) -> Option<Change> {
        let kind = (!self.kind.is_empty()).then(|| self.kind.to_owned());
        let data = RawValue::from_string(self.data.to_owned()).ok()?;
        let payload = Payload { key, kind, data, expires_at: None };
        let draft = Draft { topic: topic.clone(), payload };
        let position = Position { epoch, offset: self.offset };
        Some(Change { message: Message::new(&draft, position, Timestamp::from_millis(self.at)), expires_at: None })
    }
}

/// Converts a value of a topic's state to a message of the present epoch. The message keeps the value's offset, because
/// offsets continue across epochs.
pub(super) fn stored(topic: &Topic, key: &[u8], value: &[u8], epoch: u64) -> Option<Change> {
    let key = std::str::from_utf8(key).ok()?;
    let key = if key.is_empty() { None } else { Some(key.parse().ok()?) };
    let (head, data) = std::str::from_utf8(value).ok()?.split_once('\n')?;
    let mut head = head.splitn(4, ' ');
    let (offset, at, _expiry) = (head.next()?, head.next()?, head.next()?);
    let stored = Stored { offset: offset.parse().ok()?, at: number(at)?, kind: head.next()?, data };
    stored.change(topic, key, epoch)
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Reads the answer of `XREAD`: the names of the streams with new entries, each with these entries. `None` if the
/// answer has another form.
pub(super) fn of_xread(answer: Value) -> Option<Vec<(String, Vec<StreamEntry>)>> {
    let named = |name: Value, entries: Value| Some((String::from_utf8(bytes(name)?).ok()?, of_xrange(entries)?));
    match answer {
        Value::Nil => Some(Vec::new()),
        Value::Array(streams) => {
            let pair = |stream: Value| {
                let Value::Array(mut pair) = stream else { return None };
                let entries = pair.pop()?;
                named(pair.pop()?, entries)
            };
            streams.into_iter().map(pair).collect()
        }
        // The form in version 3 of the protocol (RESP3).
        Value::Map(streams) => streams.into_iter().map(|(name, entries)| named(name, entries)).collect(),
        _ => None,
    }
}

/// Reads the answer of `XRANGE`.
pub(super) fn of_xrange(answer: Value) -> Option<Vec<StreamEntry>> {
    let Value::Array(entries) = answer else { return None };
    entries.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<StreamEntry> {
    let Value::Array(mut pair) = value else { return None };
    let Value::Array(fields) = pair.pop()? else { return None };
    let position = std::str::from_utf8(&bytes(pair.pop()?)?).ok()?.parse().ok()?;
    let mut fields = fields.into_iter();
    let mut named = Vec::with_capacity(fields.len() / 2);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        named.push((bytes(name)?, bytes(value)?));
    }
    Some(StreamEntry { position, fields: named })
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

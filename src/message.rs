//! Messages, their positions, and the bytes that carry them.
//!
//! Invariant: a message is encoded once. Its WebSocket frame and its SSE event share one allocation, which every
//! subscriber and the log point to; nothing is changed after construction.

use std::fmt;
use std::io::Write as _;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::close::Close;
use crate::topic::{Key, Topic};

/// A moment, in milliseconds since the Unix epoch: the resolution that the protocol shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The present moment by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The moment this many milliseconds after the Unix epoch.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// How long ago that is; nothing for a moment that is yet to come.
    #[must_use]
    pub fn elapsed(self) -> std::time::Duration {
        let millis = Self::now().0.saturating_sub(self.0);
        std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// The moment this much later (or the last one that can be told).
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// The first and the last millisecond that RFC 3339 can tell: of the years 0000 and 9999.
const RFC_3339_MILLIS: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds and `Z`, such as `2026-02-06T12:00:00.123Z`. A moment out of its range, such as
    /// the end of a token that is meant to be good for ever, is shown as the nearest one within.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORMAT: &[BorrowedFormatItem<'_>] =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let shown = self.0.clamp(RFC_3339_MILLIS.0, RFC_3339_MILLIS.1);
        let moment =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(shown) * 1_000_000).map_err(|_| fmt::Error)?;
        f.write_str(&moment.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

/// Where a message stands in the deployment's one sequence: `<epoch>-<offset>`.
///
/// Positions of one epoch are ordered by their offsets. The epoch (Unix milliseconds) changes when the sequence could
/// not be continued, so positions of different epochs say nothing about each other and are not ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// When the sequence began, in Unix milliseconds.
    pub epoch: u64,
    /// The message's number in it, from 1; 0 is the position before the first.
    pub offset: u64,
}

/// The text is no position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is not a position: expected <epoch>-<offset>, such as 1763849000000-42")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        // u64's own parser also takes a leading '+', which no position has.
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten();
        text.split_once('-')
            .and_then(|(epoch, offset)| Some(Self { epoch: number(epoch)?, offset: number(offset)? }))
            .ok_or_else(|| PositionError(text.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

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

/// What goes to a client, in the forms of both transports: `[SSE head][WebSocket header][JSON][blank line]` in one
/// allocation. The WebSocket frame is the middle, the SSE event is the head and all that follows the header.
#[derive(Debug)]
pub struct Frames {
    bytes: Box<[u8]>,
    websocket: Range<u32>,
    json_start: u32,
    /// The SSE event of a JSON text that holds raw line breaks: each of its lines needs a field name of its own.
    multiline_event: Option<Box<[u8]>>,
}

impl Frames {
    /// Frames a JSON text; the SSE event gets an `id:` line where there is one.
    #[must_use]
    pub fn json(json: &[u8], id: Option<Position>) -> Self {
        Self::framed(json, id, None)
    }

    /// Frames a JSON text; the SSE event sets for how many milliseconds an `EventSource` waits before it reconnects.
    #[must_use]
    pub fn json_with_retry(json: &[u8], retry_ms: u64) -> Self {
        Self::framed(json, None, Some(retry_ms))
    }

    fn framed(json: &[u8], id: Option<Position>, retry_ms: Option<u64>) -> Self {
        let mut bytes = Vec::with_capacity(json.len() + 80);
        let head = sse_head(&mut bytes, id, retry_ms);
        websocket_header(&mut bytes, Opcode::Text, json.len());
        let json_start = bytes.len();
        bytes.extend_from_slice(json);
        let end = bytes.len();
        bytes.extend_from_slice(b"\n\n");
        let breaks = memchr::memchr2(b'\n', b'\r', json).is_some();
        Self {
            multiline_event: breaks.then(|| multiline_event(&bytes[..head], json)),
            bytes: bytes.into_boxed_slice(),
            websocket: index(head)..index(end),
            json_start: index(json_start),
        }
    }

    /// Frames a WebSocket control frame (RFC 6455, section 5.5). Over SSE it is nothing.
    #[must_use]
    pub fn control(opcode: Opcode, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(payload.len() + 2);
        websocket_header(&mut bytes, opcode, payload.len());
        bytes.extend_from_slice(payload);
        Self::raw(bytes)
    }

    /// The close frame that ends a connection for this reason.
    #[must_use]
    pub fn close(close: Close) -> Self {
        let row = close.row();
        let mut payload = row.code.to_be_bytes().to_vec();
        payload.extend_from_slice(row.reason.as_bytes());
        Self::control(Opcode::Close, &payload)
    }

    /// WebSocket frames that are complete already. Over SSE they are nothing.
    #[must_use]
    pub fn raw(bytes: Vec<u8>) -> Self {
        let end = index(bytes.len());
        Self { bytes: bytes.into(), websocket: 0..end, json_start: end, multiline_event: None }
    }

    /// The WebSocket frame, header included. Server frames are not masked, so the same bytes serve everybody.
    #[must_use]
    pub fn websocket(&self) -> &[u8] {
        &self.bytes[self.websocket.start as usize..self.websocket.end as usize]
    }

    /// Appends the SSE event, blank line included.
    pub fn write_event(&self, out: &mut Vec<u8>) {
        if let Some(event) = &self.multiline_event {
            out.extend_from_slice(event);
            return;
        }
        out.extend_from_slice(&self.bytes[..self.websocket.start as usize]);
        out.extend_from_slice(&self.bytes[self.json_start as usize..]);
    }

    /// The JSON text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.bytes[self.json_start as usize..self.websocket.end as usize]
    }

    /// What it costs an outbox and the log, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + self.multiline_event.as_ref().map_or(0, |event| event.len())
    }
}

/// Positions inside a frame fit 32 bits: `publish-body-bytes` is far below 4 GiB.
fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a message is smaller than a publish body, which is bounded far below 4 GiB")
}

/// Writes `retry: …`, `id: …` and the name of the data field; returns how long that is.
fn sse_head(out: &mut Vec<u8>, id: Option<Position>, retry_ms: Option<u64>) -> usize {
    if let Some(retry_ms) = retry_ms {
        writeln!(out, "retry: {retry_ms}").expect("writing to memory does not fail");
    }
    if let Some(id) = id {
        writeln!(out, "id: {id}").expect("writing to memory does not fail");
    }
    out.extend_from_slice(b"data: ");
    out.len()
}

/// An event whose data has line breaks. The receiver joins the lines with a line feed each, so the JSON text keeps its
/// meaning, but a carriage return in it (white space between tokens) arrives as a line feed: SSE has no other way.
fn multiline_event(head: &[u8], json: &[u8]) -> Box<[u8]> {
    let mut event = head.to_vec();
    let mut previous = 0;
    for &byte in json {
        match byte {
            // The line feed of a CR LF pair belongs to the line break that the CR has made already.
            b'\n' if previous == b'\r' => {}
            b'\n' | b'\r' => event.extend_from_slice(b"\ndata: "),
            _ => event.push(byte),
        }
        previous = byte;
    }
    event.extend_from_slice(b"\n\n");
    event.into()
}

/// The frame types that the server sends (RFC 6455, section 11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text = 0x1,
    /// The close handshake.
    Close = 0x8,
    /// Asks the peer for a pong.
    Ping = 0x9,
}

/// Writes the header of a final, unmasked frame (RFC 6455, section 5.2).
fn websocket_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    const FINAL: u8 = 0x80;
    out.push(FINAL | opcode as u8);
    match length {
        0..=125 => out.push(u8::try_from(length).expect("at most 125")),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(length).expect("at most 65,535").to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
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
    use super::*;
    use proptest::prelude::*;

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
    fn every_moment_can_be_told() {
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_millis(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
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
    fn the_frame_header_grows_with_the_payload_at_125_and_65535_bytes() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = Frames::json(&vec![b'1'; length], None);
            assert_eq!(frame.websocket().len() - length, header, "{length}");
        }
    }

    #[test]
    fn a_close_frame_begins_with_its_code() {
        for close in Close::ALL {
            assert_eq!(Frames::close(close).websocket()[2..4], close.row().code.to_be_bytes());
        }
    }

    #[test]
    fn line_breaks_in_the_data_become_lines_of_the_event() {
        for data in ["[1,\n2]", "[1,\r2]", "[1,\r\n2]"] {
            let message = message(None, data);
            assert_eq!(message.data(), data.as_bytes());
            assert!(event(message.frames()).ends_with("\"data\":[1,\ndata: 2]}\n\n"), "{data:?}");
        }
    }

    #[test]
    fn a_position_that_is_none_is_refused_by_name() {
        for text in ["", "1", "1-", "-1", "+1-2", "1-+2", "1-2-3", "a-b", " 1-2", "1-99999999999999999999"] {
            let error = text.parse::<Position>().unwrap_err().to_string();
            assert!(error.contains("expected <epoch>-<offset>"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn positions_read_back_as_written(epoch: u64, offset: u64) {
            let position = Position { epoch, offset };
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }

        #[test]
        fn the_envelope_is_json_whatever_the_key(key in "[^/\\p{Cc}]{1,20}") {
            let message = message(Some(&key), "1");
            let value: serde_json::Value = serde_json::from_slice(message.frames().text()).unwrap();
            prop_assert_eq!(&value["key"], &key);
        }
    }
}

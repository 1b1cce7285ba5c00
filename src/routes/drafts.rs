//! Checks the messages in the body of a publish request: all of them before the server publishes any.
//!
//! The error names the first invalid message and the place of that message in the body. The error never quotes `data`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::StatusCode;
use memchr::{memchr_iter, memrchr};
use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::body::Format;
use super::nesting::{MAX_LEVELS, levels};
use super::{App, Refusal};
use crate::engine::Broadcast;
use crate::message::{Draft, Payload, RESERVED_TYPES, Timestamp};
use crate::shortened::shortened;
use crate::topic::Topics;

/// The maximum length of a `type`, in bytes.
const MAX_TYPE_BYTES: usize = 64;

/// A message in the body of a publish request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a message object")]
struct IncomingMessage<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    key: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
    expires_at: Option<Cow<'a, str>>,
}

/// The body of a broadcast.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with 'type' and 'data'")]
struct IncomingBroadcast<'a> {
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The rules for a kind of JSON object. Errors quote these rules.
struct Shape {
    /// The error for a JSON value that is not an object.
    no_object: &'static str,
    /// The names of the members that must be strings.
    strings: &'static [&'static str],
    /// The names among `strings` whose members may also be null.
    nullable: &'static [&'static str],
}

const MESSAGE: Shape = Shape {
    no_object: "a message must be a JSON object with 'topic' and 'data'",
    strings: &["topic", "key", "type", "expires_at"],
    nullable: &["key", "type", "expires_at"],
};

const BROADCAST: Shape =
    Shape { no_object: "a broadcast must be an object with 'type' and 'data'", strings: &["type"], nullable: &[] };

/// An error about a message, before the place of the message in the body is known.
struct MessageError {
    /// Boxed, so that a `Result` with this error stays small.
    refusal: Box<Refusal>,
    /// Line and column of the error in the message, counted from 1, if the JSON parser reports them.
    at: Option<(usize, usize)>,
}

impl From<Refusal> for MessageError {
    fn from(refusal: Refusal) -> Self {
        Self { refusal: Box::new(refusal), at: None }
    }
}

impl MessageError {
    /// Converts an error of the JSON parser, with its place in the message.
    fn reading(code: &'static str, error: &serde_json::Error, detail: String) -> Self {
        let at = (error.line() > 0).then(|| (error.line(), error.column()));
        Self { refusal: Box::new(Refusal::new(StatusCode::BAD_REQUEST, code, detail)), at }
    }

    fn not_json(error: &serde_json::Error) -> Self {
        Self::reading("invalid_json", error, format!("not JSON: {}", without_place(error)))
    }

    /// Adds the place of the error to the text of the error. `text` is the part of `body` that contains the message.
    /// Publishers search for the place in the body, so line and column count from the beginning of `body`.
    fn in_body(self, body: &str, text: &str, format: Format) -> Refusal {
        let Self { mut refusal, at } = self;
        let before = &body.as_bytes()[..text.as_ptr().addr() - body.as_ptr().addr()];
        let first_line = memchr_iter(b'\n', before).count();
        let (line, column) = match at {
            Some((1, column)) => {
                (first_line + 1, before.len() - memrchr(b'\n', before).map_or(0, |at| at + 1) + column)
            }
            Some((line, column)) => (first_line + line, column),
            None => (first_line + 1, 0),
        };
        if at.is_some() {
            write!(refusal.detail, " at line {line} column {column}").expect("writing to memory does not fail");
        } else if format == Format::Lines {
            write!(refusal.detail, " (line {line} of the body)").expect("writing to memory does not fail");
        }
        *refusal
    }
}

/// The error text of the JSON parser, without the line and column, which count from the beginning of the message.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map_or_else(|| text.clone(), str::to_owned)
}

fn text(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|error| {
        let detail = format!("the body is not UTF-8: byte {} belongs to no character", error.valid_up_to());
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", detail)
    })
}

fn empty(expected: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "empty", format!("the body has no message: {expected}"))
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_message", detail)
}

/// Checks the body of a broadcast.
pub(super) fn broadcast(body: &[u8]) -> Result<Broadcast, Refusal> {
    let body = text(body)?;
    let text = body.trim_ascii();
    if text.is_empty() {
        return Err(empty("expected an object with 'type' and 'data'"));
    }
    let message: IncomingBroadcast<'_> =
        object(text, &BROADCAST).map_err(|error| error.in_body(body, text, Format::Json))?;
    check_type(&message.kind)?;
    check_levels(message.data)?;
    Ok(Broadcast { kind: message.kind.into_owned(), data: message.data.to_owned(), at: Timestamp::now() })
}

/// Checks all messages of a body. An error names the first invalid message.
pub(super) fn parse(body: &[u8], format: Format, app: &App) -> Result<Vec<Draft>, Refusal> {
    let body = text(body)?;
    let (messages, broken) = match format {
        Format::Json => elements(body),
        Format::Lines => (body.lines().map(str::trim).filter(|line| !line.is_empty()).collect(), None),
    };
    if messages.is_empty() && broken.is_none() {
        return Err(empty("expected an object, a non-empty array of objects, or one object a line"));
    }
    let (count, most) = (messages.len(), app.config.publish_batch_messages);
    if count > most {
        let detail = format!(
            "the request has {count} messages, the limit is {most} (publish-batch-messages): send several requests"
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail));
    }
    let now = Timestamp::now();
    let limit = app.config.publish_message_bytes;
    let check = |(index, text): (usize, &str)| {
        draft(text, app.manager.topics(), limit, now).map_err(|error| {
            let is_lines = format == Format::Json && count == 1 && holds_several_values(text);
            let refusal = if is_lines { several_values() } else { error.in_body(body, text, format) };
            refusal.at(index)
        })
    };
    let drafts = messages.into_iter().enumerate().map(check).collect::<Result<_, _>>()?;
    // In a broken array, the complete messages come before the syntax error, so report an invalid message first.
    broken.map_or(Ok(drafts), Err)
}

/// Whether a second object follows the first value, complete or not. Such a text is most likely NDJSON.
fn holds_several_values(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    matches!(values.next(), Some(Ok(_))) && text[values.byte_offset()..].trim_ascii_start().starts_with('{')
}

fn several_values() -> Refusal {
    let detail = "the body holds several JSON values: send it as application/x-ndjson";
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", detail)
}

/// Collects the elements of an array up to the first syntax error, so that the error can name the index of the element.
struct Elements<'a, 'b>(&'b mut Vec<&'a str>);

impl<'a> Visitor<'a> for Elements<'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element::<&RawValue>()? {
            self.0.push(element.get());
        }
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for Elements<'a, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

/// The messages of a JSON body: the elements of an array, or the single object. For an array with a syntax error,
/// returns the elements before the syntax error, and the error.
fn elements(body: &str) -> (Vec<&str>, Option<Refusal>) {
    let trimmed = body.trim_ascii();
    if !trimmed.starts_with('[') {
        return (if trimmed.is_empty() { Vec::new() } else { vec![trimmed] }, None);
    }
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(trimmed);
    let read = Elements(&mut found).deserialize(&mut reader).and_then(|()| reader.end());
    let broken =
        read.err().map(|error| MessageError::not_json(&error).in_body(body, trimmed, Format::Json).at(found.len()));
    (found, broken)
}

/// Parses a JSON object that must have this shape.
fn object<'a, T: Deserialize<'a>>(text: &'a str, shape: &Shape) -> Result<T, MessageError> {
    match serde_json::from_str(text) {
        Ok(read) if text.starts_with('{') => Ok(read),
        Ok(_) => Err(invalid(shape.no_object).into()),
        Err(error) => match serde_json::from_str::<&RawValue>(text) {
            Err(error) => Err(MessageError::not_json(&error)),
            Ok(_) if !text.starts_with('{') => Err(invalid(shape.no_object).into()),
            Ok(_) => Err(wrong_type(text, shape).map_or_else(|| misfit(&error), |detail| invalid(detail).into())),
        },
    }
}

/// Makes an error that names the first member with a wrong type. The JSON parser's own error would quote the value of
/// the member.
fn wrong_type(text: &str, shape: &Shape) -> Option<String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    shape.strings.iter().find_map(|name| {
        let found = match members.get(*name)?.get().as_bytes().first()? {
            b'"' => return None,
            b'n' if shape.nullable.contains(name) => return None,
            b'n' => "null",
            b't' | b'f' => "a boolean",
            b'[' => "an array",
            b'{' => "an object",
            _ => "a number",
        };
        Some(format!("'{name}' is {found}: expected a string"))
    })
}

/// Makes an error for a missing, unknown or repeated member. Shortens a long name, so that the response stays small
/// even if the request is large.
fn misfit(error: &serde_json::Error) -> MessageError {
    const SHOWN: usize = 150;
    // The JSON parser quotes an unknown name unchanged, even with line breaks and invisible characters. An escape longer
    // than two characters is a code point.
    let is_invisible = |char: char| char.is_control() || char.escape_debug().len() > 2;
    let text = without_place(error).replace(is_invisible, "\u{fffd}");
    let ends = text.char_indices().nth(SHOWN).zip(text.char_indices().nth_back(SHOWN));
    let text = match ends {
        Some(((head, _), (tail, _))) if head < tail => format!("{}…{}", &text[..head], &text[tail..]),
        _ => text,
    };
    MessageError::reading("invalid_message", error, text)
}

/// Checks one message.
fn draft(text: &str, topics: &Topics, limit: usize, now: Timestamp) -> Result<Draft, MessageError> {
    if text.len() > limit {
        let length = text.len();
        let detail = format!("the message has {length} bytes, the limit is {limit} (publish-message-bytes)");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", detail).into());
    }
    let incoming: IncomingMessage<'_> = object(text, &MESSAGE)?;
    let topic = topics.get(&incoming.topic).cloned().ok_or_else(|| {
        let shown = shortened(&incoming.topic);
        let detail = format!("no such topic: '{shown}'; the topics are: {topics}");
        Refusal::new(StatusCode::BAD_REQUEST, "unknown_topic", detail)
    })?;
    check_levels(incoming.data)?;
    let key = incoming.key.map(|key| key.parse()).transpose();
    let payload = Payload {
        key: key.map_err(|error: crate::topic::ParseError| invalid(error.to_string()))?,
        kind: incoming.kind.map(|kind| check_type(&kind).map(|()| kind.into_owned())).transpose()?,
        data: incoming.data.to_owned(),
        expires_at: incoming.expires_at.map(|text| expiry(&text, now)).transpose()?,
    };
    match (&payload.key, payload.expires_at) {
        (None, _) if payload.data.get() == "null" => {
            Err(invalid("'data' is null without a 'key': null deletes a key, so name the key or send data").into())
        }
        (None, Some(_)) => Err(invalid("'expires_at' without a 'key': only a key's value can expire").into()),
        _ => Ok(Draft { topic, payload }),
    }
}

fn check_levels(data: &RawValue) -> Result<(), Refusal> {
    match levels(data.get().as_bytes()) {
        ..=MAX_LEVELS => Ok(()),
        levels => Err(invalid(format!("'data' is nested {levels} levels deep: expected at most {MAX_LEVELS}"))),
    }
}

fn check_type(kind: &str) -> Result<(), Refusal> {
    let shown = shortened(kind);
    if !(1..=MAX_TYPE_BYTES).contains(&kind.len()) || kind.chars().any(char::is_control) {
        let rule = format!("expected 1 to {MAX_TYPE_BYTES} bytes without control characters");
        return Err(invalid(format!("invalid type '{shown}': {rule}")));
    }
    if RESERVED_TYPES.contains(&kind) {
        return Err(invalid(format!("type '{shown}' is the server's own: use another one")));
    }
    Ok(())
}

fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
    let shown = shortened(text);
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        invalid(format!("invalid expires_at '{shown}': expected an RFC 3339 time such as 2026-02-06T19:00:00Z"))
    })?;
    let at = Timestamp::from(moment);
    if at <= now {
        return Err(invalid(format!("expires_at '{shown}' is in the past: expected a time after {now}")));
    }
    Ok(at)
}

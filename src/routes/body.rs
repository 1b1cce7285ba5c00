//! The bodies that publishers send: read with a bound, and checked whole before any of it is taken.

use std::borrow::Cow;

use bytes::Buf;
use futures_util::{Stream, StreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::nesting::{MAX_LEVELS, levels};
use super::{App, Refusal};
use crate::engine::Broadcast;
use crate::message::{Draft, Payload, Timestamp};
use crate::protocol::RESERVED_TYPES;
use crate::shortened::shortened;
use crate::topic::Topics;

/// Longest `type`, in bytes.
const MAX_TYPE_BYTES: usize = 64;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Lines,
}

impl Format {
    pub(super) fn of(headers: &HeaderMap, possible: &[Self]) -> Result<Self, Refusal> {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        let format = possible.iter().find(|format| format.name().eq_ignore_ascii_case(essence));
        format.copied().ok_or_else(|| {
            let names: Vec<&str> = possible.iter().map(|format| format.name()).collect();
            let shown = shortened(essence);
            let detail = format!("Content-Type is '{shown}': expected {}", names.join(" or "));
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
        }
    }
}

pub(super) trait BodyStream: Stream<Item = Result<Self::Chunk, warp::Error>> + Send {
    type Chunk: Buf;
}

impl<S, B> BodyStream for S
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    type Chunk = B;
}

/// Collects the body, up to the limit; one that announces itself as too long is not read at all.
pub(super) async fn read(
    headers: &HeaderMap,
    body: impl BodyStream,
    limit: usize,
    setting: &str,
    app: &App,
) -> Result<Vec<u8>, Refusal> {
    let within = app.config.publish_body_timeout;
    tokio::time::timeout(within, collect(headers, body, limit, setting)).await.unwrap_or_else(|_| {
        let within = humantime::format_duration(within);
        let detail = format!("the body was not complete within {within} (publish-body-timeout)");
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
    })
}

async fn collect(headers: &HeaderMap, body: impl BodyStream, limit: usize, setting: &str) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        let detail =
            format!("the body is longer than {limit} bytes, which is the limit ({setting}): send less at once");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut collected = Vec::new();
    let mut body = std::pin::pin!(body);
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|error| Refusal::bad_request(format!("the body ended early: {error}")))?;
        if collected.len() + chunk.remaining() > limit {
            return Err(too_large());
        }
        while chunk.has_remaining() {
            let slice = chunk.chunk();
            collected.extend_from_slice(slice);
            let length = slice.len();
            chunk.advance(length);
        }
    }
    Ok(collected)
}

/// A message as it stands in a body.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with 'type' and 'data'")]
struct IncomingBroadcast<'a> {
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn text(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|error| {
        let detail = format!("the body is not UTF-8: byte {} is part of no character", error.valid_up_to());
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", detail)
    })
}

fn empty(expected: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "empty", format!("the body has no message: {expected}"))
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_message", detail)
}

/// Checks the body of a broadcast.
pub(super) fn broadcast(body: &[u8]) -> Result<Broadcast, Refusal> {
    let text = text(body)?.trim_ascii();
    if text.is_empty() {
        return Err(empty("expected an object with 'type' and 'data'"));
    }
    let message: IncomingBroadcast<'_> = object(text, "a broadcast must be an object with 'type' and 'data'")?;
    check_type(&message.kind).map_err(|detail| invalid(&detail))?;
    check_levels(message.data)?;
    Ok(Broadcast { kind: message.kind.into_owned(), data: message.data.to_owned(), at: Timestamp::now() })
}

/// Checks a whole body; an error says which message it is about.
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
    let draft = |(index, text)| draft(text, app.manager.topics(), limit, now).map_err(|refusal| refusal.at(index));
    let drafts = messages.into_iter().enumerate().map(draft).collect::<Result<_, _>>()?;
    // Where an array breaks stands behind all that it has: the first bad message is the one that is named.
    broken.map_or(Ok(drafts), Err)
}

/// The messages of a JSON body: the elements of an array, or the one object. An array that goes wrong has its elements
/// before that, and the error.
fn elements(body: &str) -> (Vec<&str>, Option<Refusal>) {
    /// Collects what an array has before it goes wrong, so that the error can say where that is.
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

    let trimmed = body.trim_ascii();
    if !trimmed.starts_with('[') {
        return (if trimmed.is_empty() { Vec::new() } else { vec![trimmed] }, None);
    }
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(trimmed);
    let read = Elements(&mut found).deserialize(&mut reader).and_then(|()| reader.end());
    let broken = read.err().map(|error| not_json(&error).at(found.len()));
    (found, broken)
}

/// Reads a JSON object.
fn object<'a, T: Deserialize<'a>>(text: &'a str, shape: &str) -> Result<T, Refusal> {
    match serde_json::from_str(text) {
        Ok(read) if text.starts_with('{') => Ok(read),
        Ok(_) => Err(invalid(shape)),
        Err(error) => match serde_json::from_str::<&RawValue>(text) {
            Err(error) => Err(not_json(&error)),
            Ok(_) if !text.starts_with('{') => Err(invalid(shape)),
            Ok(_) => Err(invalid(&misfit(&error))),
        },
    }
}

/// What is wrong with the fields of an object. The library's own words quote a text where something else was expected,
/// and no message body belongs in a log; and a reply is never as large as what caused it.
fn misfit(error: &serde_json::Error) -> String {
    const SHOWN: usize = 150;
    // A name that the object should not have is quoted as it is, line breaks and all.
    let mut text = error.to_string().replace(char::is_control, "\u{fffd}");
    if let (Some(quote), Some(end)) = (text.find("string \""), text.rfind("\", expected")) {
        text.replace_range(quote + "string".len()..=end, "");
    }
    let ends = text.char_indices().nth(SHOWN).zip(text.char_indices().nth_back(SHOWN));
    match ends {
        Some(((head, _), (tail, _))) if head < tail => format!("{}…{}", &text[..head], &text[tail..]),
        _ => text,
    }
}

fn not_json(error: &serde_json::Error) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", format!("not JSON: {error}"))
}

/// Checks one message.
fn draft(text: &str, topics: &Topics, limit: usize, now: Timestamp) -> Result<Draft, Refusal> {
    if text.len() > limit {
        let length = text.len();
        let detail = format!("the message has {length} bytes, the limit is {limit} (publish-message-bytes)");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", detail));
    }
    let incoming: IncomingMessage<'_> = object(text, "a message must be a JSON object with 'topic' and 'data'")?;
    let topic = topics.get(&incoming.topic).cloned().ok_or_else(|| {
        let shown = shortened(&incoming.topic);
        let detail = format!("no such topic: '{shown}'; the topics are: {topics}");
        Refusal::new(StatusCode::BAD_REQUEST, "unknown_topic", detail)
    })?;
    check_levels(incoming.data)?;
    let key = incoming.key.map(|key| key.parse()).transpose();
    let payload = Payload {
        key: key.map_err(|error: crate::topic::ParseError| invalid(&error.to_string()))?,
        kind: incoming
            .kind
            .map(|kind| check_type(&kind).map(|()| kind.into_owned()))
            .transpose()
            .map_err(|e| invalid(&e))?,
        data: incoming.data.to_owned(),
        expires_at: incoming
            .expires_at
            .map(|text| expiry(&text, now))
            .transpose()
            .map_err(|detail| invalid(&detail))?,
    };
    match (&payload.key, payload.expires_at) {
        (None, _) if payload.data.get() == "null" => {
            Err(invalid("'data' is null without a 'key': null deletes a key, so name the key or send data"))
        }
        (None, Some(_)) => Err(invalid("'expires_at' without a 'key': only a key's value can expire")),
        _ => Ok(Draft { topic, payload }),
    }
}

fn check_levels(data: &RawValue) -> Result<(), Refusal> {
    match levels(data.get().as_bytes()) {
        ..=MAX_LEVELS => Ok(()),
        levels => Err(invalid(&format!("'data' is nested {levels} levels deep: expected at most {MAX_LEVELS}"))),
    }
}

fn check_type(kind: &str) -> Result<(), String> {
    if !(1..=MAX_TYPE_BYTES).contains(&kind.len()) || kind.chars().any(char::is_control) {
        let rule = format!("a type is 1 to {MAX_TYPE_BYTES} bytes without control characters");
        return Err(format!("type '{}' is not valid: {rule}", shortened(kind)));
    }
    if RESERVED_TYPES.contains(&kind) {
        return Err(format!("type '{kind}' is the server's own: use another one"));
    }
    Ok(())
}

fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        format!("expires_at '{}' is no RFC 3339 time: expected one such as 2026-02-06T19:00:00Z", shortened(text))
    })?;
    let at = Timestamp::from(moment);
    if at <= now {
        return Err(format!("expires_at '{}' is in the past: it is {now} now", shortened(text)));
    }
    Ok(at)
}

//! `POST /api/publish` and `POST /api/broadcast`: what publishers send, checked whole before any of it is taken.

use std::borrow::Cow;

use bytes::Buf;
use futures_util::{Stream, StreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::value::RawValue;
use slog::info;
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::{App, Refusal, json, method, respond, with};
use crate::engine::{IdempotencyKey, MAX_IDEMPOTENCY_KEY_BYTES, PublishError};
use crate::message::{Draft, Payload, Timestamp};
use crate::protocol::{self, RESERVED_TYPES};
use crate::topic::Topics;

/// Longest `type`, in bytes.
const MAX_TYPE_BYTES: usize = 64;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) fn routes(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let post =
        || method(&[Method::POST], "POST").and(warp::header::headers_cloned()).and(warp::body::stream()).and(with(app));
    let publish = warp::path!("api" / "publish")
        .and(post())
        .then(|headers, body, app: App| async move { answer(publish(&headers, body, &app).await, &app) });
    let broadcast = warp::path!("api" / "broadcast")
        .and(post())
        .then(|headers, body, app: App| async move { answer(broadcast(&headers, body, &app).await, &app) });
    publish.or(broadcast).unify()
}

fn answer(result: Result<Response, Refusal>, app: &App) -> Response {
    if let Err(refusal) = &result {
        info!(app.logger, "publish.rejected"; "code" => refusal.code, "detail" => &refusal.detail,
            "status" => refusal.status.as_u16());
    }
    respond(result)
}

async fn publish(headers: &HeaderMap, body: impl BodyStream, app: &App) -> Result<Response, Refusal> {
    authorise(headers, app)?;
    let format = Format::of(headers, &[Format::Json, Format::Lines])?;
    let body = read(headers, body, app.config.publish_body_bytes, "publish-body-bytes").await?;
    let key = idempotency_key(headers, &body)?;
    let batch = parse(&body, format, app)?;
    let published = app.engine.publish(batch, key).await?;
    Ok(json(StatusCode::OK, &published))
}

async fn broadcast(headers: &HeaderMap, body: impl BodyStream, app: &App) -> Result<Response, Refusal> {
    authorise(headers, app)?;
    Format::of(headers, &[Format::Json])?;
    let body = read(headers, body, app.config.publish_message_bytes, "publish-message-bytes").await?;
    let incoming: IncomingBroadcast<'_> = serde_json::from_str(text(&body)?)
        .map_err(|error| invalid(&format!("the broadcast cannot be read: {error}")))?;
    check_type(&incoming.kind).map_err(|detail| invalid(&detail))?;
    let connections = app.manager.broadcast_all(protocol::broadcast(&incoming.kind, incoming.data));
    Ok(json(StatusCode::OK, &serde_json::json!({ "connections": connections })))
}

/// Compares the bearer token in constant time; says which setting enables publishing where none does.
fn authorise(headers: &HeaderMap, app: &App) -> Result<(), Refusal> {
    let Some(expected) = &app.config.publish_token else {
        let detail = "publishing is off: set publish-token (ODDSWIRE_PUBLISH_TOKEN) or publish-token-file to enable it";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "publishing_disabled", detail));
    };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let same = |token: &str| bool::from(token.trim().as_bytes().ct_eq(expected.expose().as_bytes()));
    if given.is_some_and(|(_, token)| same(token)) {
        return Ok(());
    }
    let detail = if given.is_some() {
        "the bearer token is not the one of publish-token"
    } else {
        "publishing needs the header 'Authorization: Bearer <token>'"
    };
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with_header(WWW_AUTHENTICATE, "Bearer"))
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Lines,
}

impl Format {
    fn of(headers: &HeaderMap, possible: &[Self]) -> Result<Self, Refusal> {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        let format = possible.iter().find(|format| format.name().eq_ignore_ascii_case(essence));
        format.copied().ok_or_else(|| {
            let names: Vec<&str> = possible.iter().map(|format| format.name()).collect();
            let shown: String = essence.chars().take(80).collect();
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

trait BodyStream: Stream<Item = Result<Self::Chunk, warp::Error>> + Send {
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
async fn read(headers: &HeaderMap, body: impl BodyStream, limit: usize, setting: &str) -> Result<Vec<u8>, Refusal> {
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

fn idempotency_key(headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()));
    let key = key.ok_or_else(|| {
        let rule = format!("Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
        Refusal::bad_request(rule)
    })?;
    Ok(Some(IdempotencyKey::new(key.to_owned(), body)))
}

/// A message as it stands in a body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a message object")]
struct Incoming<'a> {
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

fn invalid(detail: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_message", detail)
}

/// Checks a whole body; an error says which message it is about.
fn parse(body: &[u8], format: Format, app: &App) -> Result<Vec<Draft>, Refusal> {
    let body = text(body)?;
    let messages = match format {
        Format::Json => elements(body)?,
        Format::Lines => body.lines().map(str::trim).filter(|line| !line.is_empty()).collect(),
    };
    if messages.is_empty() {
        let detail = "the body has no message: expected an object, a non-empty array of objects, or one object a line";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "empty", detail));
    }
    let now = Timestamp::now();
    let limit = app.config.publish_message_bytes;
    let draft = |(index, text)| draft(text, app.manager.topics(), limit, now).map_err(|refusal| refusal.at(index));
    messages.into_iter().enumerate().map(draft).collect()
}

/// The messages of a JSON body: the elements of an array, or the one object.
fn elements(body: &str) -> Result<Vec<&str>, Refusal> {
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
        return Ok(if trimmed.is_empty() { Vec::new() } else { vec![trimmed] });
    }
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(trimmed);
    let read = Elements(&mut found).deserialize(&mut reader).and_then(|()| reader.end());
    match read {
        Ok(()) => Ok(found),
        Err(error) => Err(not_json(&error).at(found.len())),
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
    let incoming: Incoming<'_> = match serde_json::from_str(text) {
        Ok(_) if !text.starts_with('{') => return Err(invalid("a message must be a JSON object")),
        Ok(incoming) => incoming,
        Err(error) if error.is_data() => return Err(invalid(&error.to_string())),
        Err(error) => return Err(not_json(&error)),
    };
    let topic = topics.get(&incoming.topic).cloned().ok_or_else(|| {
        let shown: String = incoming.topic.chars().take(80).flat_map(char::escape_debug).collect();
        let detail = format!("no such topic: '{shown}'; the topics are: {topics}");
        Refusal::new(StatusCode::BAD_REQUEST, "unknown_topic", detail)
    })?;
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

fn check_type(kind: &str) -> Result<(), String> {
    let shown = || kind.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    if !(1..=MAX_TYPE_BYTES).contains(&kind.len()) || kind.chars().any(char::is_control) {
        let rule = format!("a type is 1 to {MAX_TYPE_BYTES} bytes without control characters");
        return Err(format!("type '{}' is not valid: {rule}", shown()));
    }
    if RESERVED_TYPES.contains(&kind) {
        return Err(format!("type '{kind}' is the server's own: use another one"));
    }
    Ok(())
}

fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let shown = || text.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        format!("expires_at '{}' is no RFC 3339 time: expected one such as 2026-02-06T19:00:00Z", shown())
    })?;
    let at = Timestamp::from(moment);
    if at <= now {
        return Err(format!("expires_at '{}' is in the past: it is {now} now", shown()));
    }
    Ok(at)
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::StateFull(full) => Self::new(StatusCode::BAD_REQUEST, "state_full", detail).at(full.index),
            PublishError::KeyReused => Self::new(StatusCode::CONFLICT, "idempotency_key_reused", detail),
        }
    }
}

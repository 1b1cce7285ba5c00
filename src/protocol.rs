//! The control messages: all messages on a connection except the published ones.
//!
//! This file has the messages in both directions, so that readers can compare it with docs/protocol.md.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::auth::Token;
use crate::log::{Announcement, Mode, Since, SinceError};
use crate::message::{Frames, Position, Timestamp};
use crate::shortened::shortened;
use crate::topic::{ParseError, Subscription, Topics};

/// The parameters that a subscriber's query string may have.
pub const QUERY_PARAMETERS: [&str; 4] = ["topics", "since", "conflate_ms", "token"];

/// The envelope of a control message. `topics` is both here and in `data`, because some existing clients read it here,
/// and some in `data`.
#[derive(Serialize)]
struct Envelope<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<&'a [Subscription]>,
    timestamp: String,
    data: D,
}

fn envelope<D: Serialize>(kind: &str, topics: Option<&[Subscription]>, data: D, id: Option<Position>) -> Frames {
    Frames::json(&json(kind, topics, data), id)
}

fn json<D: Serialize>(kind: &str, topics: Option<&[Subscription]>, data: D) -> Vec<u8> {
    json_at(Timestamp::now(), kind, topics, data)
}

fn json_at<D: Serialize>(at: Timestamp, kind: &str, topics: Option<&[Subscription]>, data: D) -> Vec<u8> {
    let envelope = Envelope { kind, topics, timestamp: at.to_string(), data };
    serde_json::to_vec(&envelope).expect("strings, numbers and lists always serialise")
}

/// The contents of `connection_ack`.
#[derive(Debug, Serialize)]
pub struct Acknowledgement<'a> {
    /// The subscriptions of the connection, sorted.
    pub topics: &'a [Subscription],
    /// The name of the connection in logs.
    pub connection: String,
    /// The position at the end of the log when the manager registered the connection.
    pub position: Position,
    /// The conflation window in milliseconds; 0 means none.
    pub conflate_ms: u64,
    /// When the client's token expires. At that time the server ends the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// `connection_ack`, always the first message. The SSE event has an `id` if a client can resume there without a loss.
/// The client cannot if a catch-up follows.
#[must_use]
pub fn connection_ack(ack: &Acknowledgement<'_>, resumable: bool) -> Frames {
    envelope("connection_ack", Some(ack.topics), ack, resumable.then_some(ack.position))
}

/// `subscription_update`, the answer to `subscribe` and `unsubscribe`: all subscriptions of the connection, sorted.
#[must_use]
pub fn subscription_update(topics: &[Subscription], position: Position) -> Frames {
    #[derive(Serialize)]
    struct Data<'a> {
        topics: &'a [Subscription],
        position: Position,
    }
    envelope("subscription_update", Some(topics), Data { topics, position }, None)
}

/// `pong`, the answer to a `ping` message.
#[must_use]
pub fn pong() -> Frames {
    #[derive(Serialize)]
    struct Empty {}
    envelope("pong", None, Empty {}, None)
}

/// `error`: says why a client's message is invalid, and what would be valid. The connection stays open.
#[must_use]
pub fn error(code: &str, detail: &str, topics: &[Subscription]) -> Frames {
    #[derive(Serialize)]
    struct Data<'a> {
        code: &'a str,
        detail: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        topics: &'a [Subscription],
    }
    envelope("error", None, Data { code, detail, topics }, None)
}

/// The `error` for subscriptions to topics that are not configured.
#[must_use]
pub fn unknown_topics(unknown: &[Subscription], known: &Topics) -> Frames {
    let names: Vec<String> = unknown.iter().map(|name| format!("'{name}'")).collect();
    let detail = format!("no such topic: {}; the topics are: {known}", names.join(", "));
    error("unknown_topic", &detail, unknown)
}

/// An unknown parameter of a subscriber's query, in a form that is safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownParameter {
    /// The shortened name of the parameter.
    pub name: String,
    /// The known parameter with the most similar name, if one is similar enough.
    pub nearest: Option<&'static str>,
}

/// The names of unknown parameters, for the log.
pub(crate) fn names(unknown: &[UnknownParameter]) -> String {
    unknown.iter().map(|unknown| unknown.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The `error` for an unknown query parameter. The parameter has no effect, so without this `error` the author of a
/// client would not notice a misspelt name.
#[must_use]
pub fn unknown_parameter(unknown: &UnknownParameter) -> Frames {
    let name = &unknown.name;
    let detail = match unknown.nearest {
        Some(nearest) => format!("unknown query parameter '{name}': did you mean '{nearest}'?"),
        None => format!("unknown query parameter '{name}': expected {}", QUERY_PARAMETERS.join(", ")),
    };
    error("unknown_parameter", &detail, &[])
}

/// The SSE `id` of a `catch_up` that announces a snapshot. The client has then dropped its state, and has no message
/// yet. An `EventSource` that loses its connection here reconnects with this id and gets a snapshot, on any node.
const NOWHERE: Position = Position { epoch: 0, offset: 0 };

/// `catch_up`, which comes before the messages of a catch-up.
#[must_use]
pub fn catch_up(announcements: &[Announcement], broadcasts_skipped: u64) -> Frames {
    #[derive(Serialize)]
    struct Entry {
        mode: &'static str,
        skipped: Option<u64>,
    }
    #[derive(Serialize)]
    struct Data {
        topics: serde_json::Map<String, Value>,
        #[serde(skip_serializing_if = "is_zero")]
        broadcasts_skipped: u64,
    }
    let entry = |a: &Announcement| {
        let entry = Entry { mode: a.mode.as_str(), skipped: a.skipped };
        (a.subscription.to_string(), serde_json::to_value(entry).expect("a string and a number always serialise"))
    };
    let id = announcements.iter().any(|told| told.mode == Mode::Snapshot).then_some(NOWHERE);
    envelope("catch_up", None, Data { topics: announcements.iter().map(entry).collect(), broadcasts_skipped }, id)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `caught_up`, which comes after the messages of a catch-up. From this position on the client is live.
#[must_use]
pub fn caught_up(position: Position) -> Frames {
    #[derive(Serialize)]
    struct Data {
        position: Position,
    }
    envelope("caught_up", None, Data { position }, Some(position))
}

/// `auth_ack`: the server accepted the client's new token, which is valid until `expires`.
#[must_use]
pub fn auth_ack(expires: Option<Timestamp>) -> Frames {
    #[derive(Serialize)]
    struct Data {
        expires_at: Option<String>,
    }
    envelope("auth_ack", None, Data { expires_at: expires.map(|at| at.to_string()) }, None)
}

/// `reconnect`: the server shuts down, and closes this connection after the time `after`. It closes the last connection
/// after the time `spread`.
///
/// An `EventSource` reconnects by itself, but never again after a 503. A draining server answers 503. The event
/// therefore has a `retry:` that is `spread` longer than usual. So the first stream reconnects only after the server
/// has closed the last stream, and the reconnects are spread as evenly as the closes.
#[must_use]
pub fn reconnect(after: Duration, spread: Duration) -> Frames {
    #[derive(Serialize)]
    struct Data {
        after_ms: u64,
    }
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let json = json("reconnect", None, Data { after_ms: ms(after) });
    Frames::json_with_retry(&json, ms(spread).saturating_add(retry_ms()))
}

/// Milliseconds that an `EventSource` waits before it reconnects. The number is random, so that clients do not all
/// reconnect at once.
#[must_use]
pub fn retry_ms() -> u64 {
    fastrand::u64(1_000..4_000)
}

/// A publisher's broadcast to every connection. It has no position, and the server does not store it. The text is the
/// same on all connections, so that a client with two connections can recognize the duplicate.
#[must_use]
pub fn broadcast(kind: &str, data: &RawValue, at: Timestamp) -> Frames {
    Frames::json(&json_at(at, kind, None, data), None)
}

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// Asks for a `pong`.
    Ping,
    /// Adds subscriptions.
    Subscribe {
        /// The subscriptions to add.
        topics: Vec<Subscription>,
        /// Where the new subscriptions begin.
        since: Since,
    },
    /// Replaces the client's token before it expires.
    Auth {
        /// The new token.
        token: Token,
    },
    /// Removes subscriptions.
    Unsubscribe {
        /// The subscriptions to remove.
        topics: Vec<Subscription>,
    },
}

/// Why a client's message has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientMessageError {
    /// The message is not a JSON object with a `type`. The server logs and ignores it.
    #[error("{0}")]
    Malformed(String),
    /// The server does not know the type of the message, and ignores the message.
    #[error("unknown message type '{0}'")]
    UnknownType(String),
    /// The message has a known type but invalid contents. The server answers with `error`.
    #[error("{0}")]
    BadRequest(String),
}

impl From<ParseError> for ClientMessageError {
    fn from(error: ParseError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<SinceError> for ClientMessageError {
    fn from(error: SinceError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl ClientMessage {
    /// Parses a client's text message.
    pub fn parse(text: &str) -> Result<Self, ClientMessageError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| ClientMessageError::Malformed(format!("not JSON: {error}")))?;
        let Value::Object(object) = value else {
            return Err(ClientMessageError::Malformed("not a JSON object".to_owned()));
        };
        match object.get("type").and_then(Value::as_str) {
            Some("ping") => Ok(Self::Ping),
            Some("subscribe") => {
                Ok(Self::Subscribe { topics: topics(object.get("topics"))?, since: since(object.get("since"))? })
            }
            Some("auth") => {
                let token = object.get("token").and_then(Value::as_str).and_then(|token| token.parse().ok());
                let wrong = || ClientMessageError::BadRequest("'token' must be a JSON Web Token".to_owned());
                Ok(Self::Auth { token: token.ok_or_else(wrong)? })
            }
            Some("unsubscribe") => Ok(Self::Unsubscribe { topics: topics(object.get("topics"))? }),
            Some(other) => Err(ClientMessageError::UnknownType(shortened(other))),
            None => Err(ClientMessageError::Malformed("missing 'type': expected a string".to_owned())),
        }
    }
}

fn topics(value: Option<&Value>) -> Result<Vec<Subscription>, ClientMessageError> {
    let wrong = || ClientMessageError::BadRequest("'topics' must be a list of strings".to_owned());
    let list = value.and_then(Value::as_array).ok_or_else(wrong)?;
    list.iter().map(|entry| Ok(entry.as_str().ok_or_else(wrong)?.parse()?)).collect()
}

fn since(value: Option<&Value>) -> Result<Since, ClientMessageError> {
    match value {
        None | Some(Value::Null) => Ok(Since::Now),
        Some(Value::String(text)) => Ok(text.parse()?),
        Some(_) => {
            Err(ClientMessageError::BadRequest("'since' must be a string: 'now', 'snapshot' or a position".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn client_messages_are_read() {
        assert_eq!(ClientMessage::parse(r#"{"type":"ping"}"#), Ok(ClientMessage::Ping));
        let topics = vec!["odds_updates/8301".parse().unwrap()];
        assert_eq!(
            ClientMessage::parse(r#"{"type":"subscribe","topics":["odds_updates/8301"],"since":"snapshot"}"#),
            Ok(ClientMessage::Subscribe { topics: topics.clone(), since: Since::Snapshot })
        );
        assert_eq!(
            ClientMessage::parse(r#"{"topics":["odds_updates/8301"],"type":"unsubscribe"}"#),
            Ok(ClientMessage::Unsubscribe { topics })
        );
    }

    #[test]
    fn malformed_messages_differ_from_bad_requests() {
        for text in ["", "[]", "1", "{", r#"{"type":1}"#, "{}"] {
            assert!(matches!(ClientMessage::parse(text), Err(ClientMessageError::Malformed(_))), "{text}");
        }
        let unknown = ClientMessage::parse(r#"{"type":"x\ny"}"#);
        assert_eq!(unknown, Err(ClientMessageError::UnknownType("x\\ny".to_owned())));
        for text in [
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","topics":"odds"}"#,
            r#"{"type":"subscribe","topics":[1]}"#,
            r#"{"type":"subscribe","topics":["Odds!"]}"#,
            r#"{"type":"subscribe","topics":[],"since":"yesterday"}"#,
            r#"{"type":"subscribe","topics":[],"since":5}"#,
            r#"{"type":"unsubscribe","topics":null}"#,
        ] {
            assert!(matches!(ClientMessage::parse(text), Err(ClientMessageError::BadRequest(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = ClientMessage::parse(&text);
        }
    }
}

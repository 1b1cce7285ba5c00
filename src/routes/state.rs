//! `GET /api/topics/{topic}/state`: the latest message of every key, for clients without a stream.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderValue, StatusCode};
use warp::reply::{Reply as _, Response};
use warp::{Filter, Rejection};

use super::access::{Incoming, check_allowed, incoming};
use super::{App, Refusal, get, respond, with};
use crate::message::{Message, Position, write_string};
use crate::shortened::shortened;
use crate::topic::{Key, Subscription, Topic};

/// The approximate size of one chunk of the response, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "topics" / String / "state")
        .and(get())
        .and(incoming())
        .and(with(app))
        .map(|topic: String, incoming: Incoming, app: App| respond(read(&topic, &incoming, &app)))
}

fn read(topic: &str, incoming: &Incoming, app: &App) -> Result<Response, Refusal> {
    incoming.check_origin(app)?;
    let access = incoming.access(app)?;
    app.check_started()?;
    let topics = app.manager.topics();
    let topic = topics.get(topic).cloned().ok_or_else(|| {
        let shown = shortened(topic);
        let detail = format!("no such topic: '{shown}'; the topics are: {topics}");
        Refusal::new(StatusCode::NOT_FOUND, "unknown_topic", detail)
    })?;
    let key = form_urlencoded::parse(incoming.query.as_bytes())
        .find(|(name, _)| name == "key")
        .map(|(_, key)| key.parse::<Key>());
    let key = key.transpose().map_err(|error| Refusal::bad_request(format!("key: {error}")))?;
    let subscription = Subscription::new(topic.clone(), key);
    check_allowed(&access, std::slice::from_ref(&subscription))?;
    let position = app.manager.position();
    let (mut response, position) = if incoming.holds(&etag_of(position)) {
        (StatusCode::NOT_MODIFIED.into_response(), position)
    } else {
        let (position, messages) = app.manager.snapshot(&subscription);
        let mut response = warp::reply::stream(body(&topic, position, messages)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        (response, position)
    };
    let etag = etag_of(position);
    let etag = HeaderValue::from_str(&etag).expect("digits, a dash and quotes are a valid header value");
    response.headers_mut().insert(ETAG, etag);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn etag_of(position: Position) -> String {
    format!("\"{position}\"")
}

/// Writes the body one chunk at a time. The log shares the messages, so memory holds copies for only one chunk.
fn body(
    topic: &Topic,
    position: Position,
    messages: Vec<Arc<Message>>,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let start = format!("{{\"topic\":\"{topic}\",\"position\":\"{position}\",\"items\":[").into_bytes();
    stream::unfold(Some((messages.into_iter(), start)), |state| async move {
        let (mut messages, mut chunk) = state?;
        let mut separate = !chunk.ends_with(b"[");
        while chunk.len() < CHUNK_BYTES {
            let Some(message) = messages.next() else {
                chunk.extend_from_slice(b"]}");
                return Some((Ok(Bytes::from(chunk)), None));
            };
            if std::mem::replace(&mut separate, true) {
                chunk.push(b',');
            }
            write_item(&mut chunk, &message);
        }
        Some((Ok(Bytes::from(chunk)), Some((messages, Vec::new()))))
    })
}

fn write_item(out: &mut Vec<u8>, message: &Message) {
    out.push(b'{');
    if let Some(key) = message.key() {
        out.extend_from_slice(b"\"key\":");
        write_string(out, key.as_str());
        out.push(b',');
    }
    let (id, timestamp) = (message.position(), message.timestamp());
    write!(out, "\"id\":\"{id}\",\"timestamp\":\"{timestamp}\",\"data\":").expect("writing to memory does not fail");
    out.extend_from_slice(message.data());
    out.push(b'}');
}

//! `GET /api/sse`: the same messages as over WebSocket, as server-sent events.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use slog::{Logger, info, o};
use std::convert::Infallible;
use tokio::time::{Instant as Moment, timeout};
use warp::reply::{Reply as _, Response};
use warp::{Filter, Rejection};

use super::query::{Query, query};
use super::{App, Refusal, get, peer, reject, respond, with};
use crate::log::Since;
use crate::manager::Connection;
use crate::outbox::{self, Outgoing, Receiver};
use crate::protocol;

/// Events gathered into one chunk of the response, about.
const CHUNK_BYTES: usize = 64 << 10;
/// The client's delay before it reconnects is drawn from this range, so that a crowd does not come back at once.
const RETRY_MS: std::ops::Range<u64> = 1_000..4_000;

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "sse")
        .and(get())
        .and(query())
        .and(last_event_id())
        .and(peer())
        .and(with(app))
        .map(|query, last, peer, app| respond(Ok(open(query, last, peer, &app))))
}

/// The position that an `EventSource` saw last: it comes with each of its reconnects.
fn last_event_id() -> impl Filter<Extract = (Option<Since>,), Error = Rejection> + Clone {
    warp::header::optional::<String>("last-event-id").and_then(|value: Option<String>| async move {
        let value = value.filter(|value| !value.is_empty());
        let position = value.map(|text| text.parse().map(Since::Position)).transpose();
        position.map_err(|error| reject(Refusal::bad_request(format!("Last-Event-ID: {error}"))))
    })
}

fn open(mut query: Query, last: Option<Since>, peer: Option<SocketAddr>, app: &App) -> Response {
    // A reconnect repeats the query of the first connection; what it saw since counts more.
    query.since = last.or(query.since);
    let (connect, unknown) = query.connect(app.manager.topics());
    let window = connect.conflate.map(|length| (length, Moment::now() + length));
    let (connection, receiver) = app.manager.connect(connect);
    let logger = app.logger.new(o!("connection" => connection.id()));
    info!(logger, "sse.connect"; "total_connections" => connection.total(), "peer" => peer.map(|peer| peer.to_string()));
    if !unknown.is_empty() {
        connection.tell(protocol::unknown_topics(&unknown, app.manager.topics()));
    }
    let opened = Opened { started: Instant::now(), messages: 0, bytes: 0, reason: "peer_closed", logger };
    let events = Events {
        connection,
        receiver,
        window,
        comment_interval: app.config.sse_comment_interval,
        unsettled: 0,
        first: true,
        then: Then::Continue,
        opened,
    };
    let mut response = warp::reply::stream(stream::unfold(events, Events::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // nginx buffers responses unless it is told not to.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// One event stream. When the client goes away hyper drops it, and with it the registration.
struct Events {
    receiver: Receiver,
    connection: Connection,
    window: Option<(Duration, Moment)>,
    comment_interval: Duration,
    /// Bytes of the last chunk: they are on their way until hyper asks for the next one.
    unsettled: usize,
    first: bool,
    then: Then,
    opened: Opened,
}

/// What a stream did, logged at its end.
struct Opened {
    started: Instant,
    messages: u64,
    bytes: u64,
    reason: &'static str,
    logger: Logger,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Continue,
    Refill,
    End,
}

impl Events {
    /// The next chunk.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        self.receiver.settle(std::mem::take(&mut self.unsettled));
        let mut chunk = Vec::new();
        while chunk.is_empty() {
            match std::mem::replace(&mut self.then, Then::Continue) {
                Then::Continue => {}
                Then::Refill => self.connection.manager().refill(self.connection.id()),
                Then::End => return None,
            }
            match timeout(self.wait(), self.receiver.recv()).await {
                Ok(Some(first)) => {
                    // What is about to be queued goes out with the same chunk.
                    tokio::task::yield_now().await;
                    self.gather(first, &mut chunk);
                }
                Ok(None) => return None,
                Err(_) => self.waited(&mut chunk),
            }
        }
        self.opened.bytes += chunk.len() as u64;
        Some((Ok(chunk.into()), self))
    }

    /// How long to wait for an item: to the end of the conflation window, or until a comment is due.
    fn wait(&self) -> Duration {
        self.window.map_or(self.comment_interval, |(_, end)| {
            end.saturating_duration_since(Moment::now()).min(self.comment_interval)
        })
    }

    /// Nothing came: the window has ended, or a comment shows that the stream is alive.
    fn waited(&mut self, chunk: &mut Vec<u8>) {
        match &mut self.window {
            Some((length, end)) if *end <= Moment::now() => {
                *end = Moment::now() + *length;
                self.then = Then::Refill;
            }
            _ => chunk.extend_from_slice(b":\n\n"),
        }
    }

    fn gather(&mut self, first: Outgoing, chunk: &mut Vec<u8>) {
        if std::mem::take(&mut self.first) {
            chunk.extend_from_slice(format!("retry: {}\n", fastrand::u64(RETRY_MS)).as_bytes());
        }
        let mut next = Some(first);
        while let Some(item) = next {
            match &item {
                Outgoing::Refill => return self.then = Then::Refill,
                Outgoing::Close(close) => {
                    self.opened.reason = close.row().label;
                    return self.then = Then::End;
                }
                Outgoing::Message(message) => {
                    self.opened.messages += 1;
                    message.frames().write_event(chunk);
                }
                Outgoing::Control(frames) => frames.write_event(chunk),
            }
            self.unsettled += outbox::size(&item);
            next = if chunk.len() < CHUNK_BYTES { self.receiver.try_recv() } else { None };
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        info!(self.logger, "sse.disconnect"; "reason" => self.reason,
            "duration_ms" => u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "messages" => self.messages, "bytes" => self.bytes);
    }
}

//! `GET /api/sse`: sends messages as server-sent events.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use slog::{Logger, info, o, warn};
use std::convert::Infallible;
use tokio::time::{Instant as Moment, timeout};
use warp::reply::{Reply as _, Response};
use warp::{Filter, Rejection};

use super::access::{Incoming, incoming};
use super::query::Query;
use super::{App, Refusal, get, respond, with};
use crate::admission::Admitted;
use crate::close::Close;
use crate::log::Since;
use crate::manager::Connection;
use crate::message::Timestamp;
use crate::metrics::{Tracked, Transport};
use crate::outbox::{self, Outgoing, Receiver};
use crate::protocol;

/// The maximum wait for a token to expire. Without it the timer could overflow.
const MAX_WAIT: Duration = Duration::from_hours(24 * 365);
/// The approximate size of one chunk of the response, in bytes.
const CHUNK_BYTES: usize = 16 << 10;

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "sse")
        .and(get())
        .and(incoming())
        .and(with(app))
        .then(|incoming: Incoming, app: App| async move { respond(open(&incoming, &app).await) })
}

/// The position in `Last-Event-ID`: an `EventSource` sends the `id` of its last event with each reconnect.
fn last_event_id(incoming: &Incoming) -> Result<Option<Since>, Refusal> {
    let Some(value) = incoming.headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let position = String::from_utf8_lossy(value.as_bytes()).parse();
    let position = position.map_err(|error| Refusal::bad_request(format!("Last-Event-ID: {error}")))?;
    Ok(Some(Since::Position(position)))
}

async fn open(incoming: &Incoming, app: &App) -> Result<Response, Refusal> {
    incoming.check_origin(app)?;
    let access = incoming.access(app)?;
    let mut query = Query::parse(&incoming.query)?;
    // A reconnect repeats the query of the first connection. Last-Event-ID is newer, so it overrides `since`.
    query.since = last_event_id(incoming)?.or(query.since);
    let unknown_parameters = std::mem::take(&mut query.unknown);
    let (connect, unknown) = query.connect(incoming, app, &access)?;
    app.check_started()?;
    let admitted = incoming.admit(app)?;
    if let Since::Position(position) = connect.since {
        app.engine.reach(position).await;
    }
    let window = connect.conflate.map(|length| (length, Moment::now() + length));
    let (topics, peer) = (connect.shown(app.manager.topics()), connect.peer.clone());
    let (connection, receiver) = app.manager.connect(connect);
    let logger = app.logger.new(o!("connection" => connection.id()));
    info!(logger, "sse.connect"; "topics" => topics, "total_connections" => connection.total(), "peer" => peer);
    if !unknown_parameters.is_empty() {
        warn!(logger, "sse.unknown_parameter"; "parameters" => protocol::names(&unknown_parameters));
    }
    connection.tell_unknown(&unknown, &unknown_parameters);
    let expires = access.expires.map(|at| {
        let left = at.as_millis().saturating_sub(Timestamp::now().as_millis());
        Moment::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(MAX_WAIT)
    });
    let tracked = app.manager.metrics().connected(Transport::sse);
    let opened = Opened { tracked, started: Instant::now(), messages: 0, bytes: 0, reason: "peer_closed", logger };
    let events = Events {
        connection,
        receiver,
        window,
        expires,
        _admitted: admitted,
        comment_interval: app.config.sse_comment_interval,
        comment_due: Moment::now() + app.config.sse_comment_interval,
        chunk_messages: 0,
        oldest: None,
        unsettled: 0,
        first: true,
        then: ChunkEnd::Continue,
        opened,
    };
    Ok(response(events))
}

fn response(events: Events) -> Response {
    let mut response = warp::reply::stream(stream::unfold(events, Events::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // Without this header nginx buffers the response.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// One event stream. When the client disconnects, hyper drops the stream, which also ends the registration.
struct Events {
    receiver: Receiver,
    connection: Connection,
    window: Option<(Duration, Moment)>,
    /// When the client's token expires, which ends the stream.
    expires: Option<Moment>,
    _admitted: Admitted,
    comment_interval: Duration,
    /// When the next comment is due. Each chunk postpones this time.
    comment_due: Moment,
    /// The number of messages in the current chunk.
    chunk_messages: u64,
    oldest: Option<Timestamp>,
    /// Bytes of the last chunk. The outbox counts them as queued until hyper asks for the next chunk.
    unsettled: usize,
    first: bool,
    then: ChunkEnd,
    opened: Opened,
}

/// Counts the messages and bytes of a stream, and logs them when the stream ends.
struct Opened {
    tracked: Tracked,
    started: Instant,
    messages: u64,
    bytes: u64,
    reason: &'static str,
    logger: Logger,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChunkEnd {
    Continue,
    Refill,
    End,
}

impl Events {
    /// Makes the next chunk; `None` ends the stream.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        self.receiver.settle(std::mem::take(&mut self.unsettled));
        let mut chunk = Vec::new();
        while chunk.is_empty() {
            match std::mem::replace(&mut self.then, ChunkEnd::Continue) {
                ChunkEnd::Continue => {}
                ChunkEnd::Refill => {
                    self.receiver.give_back();
                    self.connection.manager().refill(self.connection.id());
                }
                ChunkEnd::End => return None,
            }
            if self.expires.is_some_and(|expires| expires <= Moment::now()) {
                self.opened.reason = Close::TokenExpired.row().label;
                return None;
            }
            match timeout(self.wait(), self.receiver.ready()).await {
                Ok(true) => self.gather(&mut chunk),
                Ok(false) => return None,
                Err(_) => self.waited(&mut chunk),
            }
        }
        self.comment_due = Moment::now() + self.comment_interval;
        self.opened.bytes += chunk.len() as u64;
        let latency = self.oldest.take().map(Timestamp::elapsed);
        let messages = std::mem::take(&mut self.chunk_messages);
        self.opened.messages += messages;
        let metrics = self.connection.manager().metrics();
        metrics.delivered(Transport::sse, messages, chunk.len() as u64, latency);
        Some((Ok(chunk.into()), self))
    }

    /// The maximum time to wait for an item: until a comment is due, a conflation window ends, or the token expires.
    fn wait(&self) -> Duration {
        let window = self.window.map(|(_, end)| end);
        let ends = [Some(self.comment_due), window, self.expires].into_iter().flatten();
        ends.min().unwrap_or(self.comment_due).saturating_duration_since(Moment::now())
    }

    /// Handles a wait without an item: ends a conflation window, or adds a comment.
    fn waited(&mut self, chunk: &mut Vec<u8>) {
        let now = Moment::now();
        if let Some((length, end)) = &mut self.window
            && *end <= now
        {
            *end = now + *length;
            self.connection.manager().end_window(self.connection.id());
        }
        if self.comment_due <= now {
            // A comment shows the client, the server and the proxies between them that the stream is alive.
            chunk.extend_from_slice(b":\n\n");
        }
    }

    fn gather(&mut self, chunk: &mut Vec<u8>) {
        if std::mem::take(&mut self.first) {
            chunk.extend_from_slice(format!("retry: {}\n", protocol::retry_ms()).as_bytes());
        }
        self.receiver.take();
        let mut next = self.receiver.pop();
        while let Some(item) = next {
            match &item {
                Outgoing::Refill => return self.then = ChunkEnd::Refill,
                Outgoing::Close(close) => {
                    self.opened.reason = close.row().label;
                    return self.then = ChunkEnd::End;
                }
                Outgoing::Message(message) => {
                    self.chunk_messages += 1;
                    self.oldest.get_or_insert(message.timestamp());
                }
                Outgoing::Missed(_) => self.chunk_messages += 1,
                Outgoing::Control(_) => {}
            }
            if let Some(frames) = item.frames() {
                frames.write_event(chunk);
            }
            self.unsettled += outbox::size(&item);
            next = if chunk.len() < CHUNK_BYTES { self.receiver.pop() } else { None };
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.tracked.metrics().disconnected(Transport::sse, self.reason);
        info!(self.logger, "sse.disconnect"; "reason" => self.reason,
            "duration" => self.started.elapsed().as_secs_f64(),
            "messages" => self.messages, "bytes" => self.bytes);
    }
}

//! Keeps a connection to the server. After a reconnect, resumes at the position that was reached.
//!
//! When the server announces a shutdown, tail opens a new connection while the old connection still delivers. Messages
//! that come over both are shown once. A broadcast has no position to resume from. It is lost if the server sends it
//! before the new connection is open, and the old connection closes before it arrives.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use oddswire::log::Since;
use oddswire::message::Position;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;

use super::connection::{self, Socket, TailEnd};
use super::notice::{Notice, Tone};
use super::overlap::Overlap;
use super::print::Line;
use crate::commands::backoff::Backoff;
use crate::commands::settings::Tail;
use crate::commands::{Failure, counted, printable};
use crate::dial::Dialer;

/// If a connection lasted this long, the next wait before a reconnect is short again.
const STABLE: Duration = Duration::from_secs(10);

/// A connection that is being opened. Connecting and the handshake have their own deadlines.
type Opening = BoxFuture<'static, Result<Socket, TailEnd>>;

/// Receives the messages of one server, over one connection after another.
pub(super) struct Follower {
    dialer: Dialer,
    settings: Tail,
    lines: Sender<Line>,
    /// Where the next connection resumes.
    since: Since,
    /// The user requested topics, and the server has none of them.
    deaf: bool,
    /// The catch-up of the current connection is not complete yet.
    behind: bool,
    /// When to open the next connection, if the server has announced a shutdown.
    leave_at: Option<Instant>,
    /// The next connection, while it is being opened.
    next: Option<Opening>,
    overlap: Overlap,
    backoff: Backoff,
    messages: u64,
    connections: u64,
}

impl Follower {
    pub(super) fn new(dialer: Dialer, settings: Tail, lines: Sender<Line>) -> Self {
        let since = settings.since;
        let backoff = Backoff::default();
        Self {
            dialer,
            settings,
            lines,
            since,
            deaf: false,
            behind: false,
            leave_at: None,
            next: None,
            overlap: Overlap::default(),
            backoff,
            messages: 0,
            connections: 0,
        }
    }

    /// Receives messages until standard output is closed, or until a reconnect is useless.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        loop {
            let began = Instant::now();
            let opening = match self.next.take() {
                Some(next) => next,
                None => self.opening(),
            };
            let end = match opening.await {
                Ok(socket) => self.read(socket).await,
                Err(end) => end,
            };
            if began.elapsed() >= STABLE {
                self.backoff.reset();
            }
            match end {
                TailEnd::Replaced(socket) => {
                    self.next = Some(Box::pin(std::future::ready(Ok(*socket))));
                    self.hand_over();
                }
                TailEnd::Unread => return Ok(()),
                TailEnd::Final(reason) => return Err(Failure::Failed(reason)),
                // The server closed this connection before the next one was open. Continue with the next connection,
                // which is being opened already.
                TailEnd::Lost(reason, _) if self.next.is_some() => {
                    self.hand_over();
                    let text = format!("{reason}; already reconnecting");
                    if self.note(Tone::Aside, text).await.is_err() {
                        return Ok(());
                    }
                }
                TailEnd::Lost(reason, asked) => {
                    let wait = self.backoff.next(asked);
                    let text = format!("{reason}; retrying in {:.1} s", wait.as_secs_f64());
                    if self.note(Tone::Warning, text).await.is_err() {
                        return Ok(());
                    }
                    tokio::time::sleep_until(Instant::now() + wait).await;
                }
            }
        }
    }

    /// Writes how many messages arrived and how to continue, if the queue of lines has room.
    pub(super) fn summarise(&self) {
        let messages = counted(self.messages, "message");
        let connections = match self.connections {
            ..=1 => String::new(),
            count => format!(" over {}", counted(count, "connection")),
        };
        let next = match self.since {
            Since::Position(position) => format!("; continue with --since {position}"),
            Since::Now | Since::Snapshot => String::new(),
        };
        let text = format!("{messages}{connections}{next}");
        // If the queue is full, the output is not being read, so the summary is useless.
        let _ = self.lines.try_send(Line::Notice(Notice { tone: Tone::Aside, text }));
    }

    /// Begins to open a connection that resumes at the present position.
    fn opening(&mut self) -> Opening {
        self.overlap.begin();
        let request = connection::request(self.dialer.endpoint(), &self.settings, self.since);
        Box::pin(connection::open(self.dialer.clone(), request))
    }

    /// Tells `overlap` that the connection in `next` replaces the current one.
    fn hand_over(&mut self) {
        self.overlap.hand_over(match self.since {
            Since::Position(position) => Some(position),
            Since::Now | Since::Snapshot => None,
        });
    }

    /// Reads messages until the connection ends. Sends pings, and ends the connection if nothing arrives for the idle
    /// timeout.
    async fn read(&mut self, mut socket: Socket) -> TailEnd {
        (self.connections, self.leave_at, self.next) = (self.connections + 1, None, None);
        let idle = self.settings.idle_timeout;
        let mut heard = Instant::now();
        let mut pings = tokio::time::interval_at(heard + idle / 3, idle / 3);
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout_at(heard + idle, socket.next()) => frame,
                _ = pings.tick() => {
                    let ping = tokio::time::timeout_at(heard + idle, socket.send(Frame::Ping(Vec::new().into())));
                    // Ignore an error of the ping. The next reads return the messages that arrived before, and then the
                    // same error.
                    let _: Result<_, _> = ping.await;
                    continue;
                }
                next = self.replacement() => {
                    connection::leave(socket);
                    return TailEnd::Replaced(Box::new(next));
                }
            };
            let Ok(frame) = frame else {
                return TailEnd::Lost(
                    format!("no data from the server for {}", humantime::format_duration(idle)),
                    None,
                );
            };
            heard = Instant::now();
            match frame {
                Some(Ok(Frame::Text(text))) => {
                    if let Err(end) = self.take(text).await {
                        return end;
                    }
                }
                Some(Ok(Frame::Close(frame))) => return connection::closed(frame),
                Some(Ok(_)) => {}
                Some(Err(error)) => return TailEnd::Lost(format!("the connection is lost: {error}"), None),
                None => return TailEnd::Lost("the connection is lost".to_owned(), None),
            }
        }
    }

    /// Opens the next connection after the server has announced a shutdown. Waits forever without an announcement.
    ///
    /// Cancel-safe: a pending attempt stays in `next`. Repeats a failed attempt until the current connection ends; then
    /// `run` reconnects as usual. Begins no attempt during a catch-up, because the position to resume from is known
    /// only when the catch-up ends.
    async fn replacement(&mut self) -> Socket {
        loop {
            let next = match (&mut self.next, self.leave_at) {
                (Some(next), _) => next,
                (None, Some(at)) if !self.behind => {
                    tokio::time::sleep_until(at).await;
                    let opening = self.opening();
                    self.next.insert(opening)
                }
                _ => return std::future::pending().await,
            };
            let opened = next.await;
            self.next = None;
            match opened {
                Ok(socket) => return socket,
                Err(TailEnd::Lost(_, asked)) => self.leave_at = Some(Instant::now() + self.backoff.next(asked)),
                Err(_) => self.leave_at = None,
            }
        }
    }

    /// Handles a message: sends it to the printer, stores its position, and updates the state of the connection.
    async fn take(&mut self, text: Utf8Bytes) -> Result<(), TailEnd> {
        let Ok(head) = serde_json::from_str::<Head<'_>>(&text) else {
            let text = "invalid message: expected a JSON object with 'type' and 'data'".to_owned();
            return Ok(self.note(Tone::Warning, text).await?);
        };
        let note = match head.kind.as_ref() {
            "connection_ack" => self.acknowledged(head.data.get()),
            "catch_up" => {
                self.catches_up(head.data.get());
                None
            }
            "caught_up" => {
                self.behind = false;
                // The new server may be behind the old server. Keep the later position.
                self.move_to(position(head.data.get()).filter(|at| !self.overlap.has_reached(*at)));
                None
            }
            // The server has none of the requested topics. This error message says why.
            "error" if self.deaf => return Err(TailEnd::Final(detail(head.data.get()))),
            "reconnect" => Some((Tone::Aside, self.leave(head.data.get()))),
            _ if self.is_repeated(&head, &text) => return Ok(()),
            _ => {
                self.messages += u64::from(head.id.is_some());
                self.move_to(head.position());
                None
            }
        };
        // Print the notice about a new connection before the first message of that connection.
        if let Some((tone, text)) = note {
            self.note(tone, text).await?;
        }
        self.lines.send(Line::Message(text)).await.map_err(|_| TailEnd::Unread)
    }

    /// Whether the other connection has already brought this message.
    fn is_repeated(&mut self, head: &Head<'_>, text: &Utf8Bytes) -> bool {
        let topic = head.topic.as_deref().unwrap_or_default();
        match head.position() {
            Some(at) => self.overlap.has_message(at, topic, head.key.as_deref()),
            None => self.overlap.has_broadcast(text, self.next.is_some()),
        }
    }

    fn acknowledged(&mut self, data: &str) -> Option<(Tone, String)> {
        #[derive(Deserialize)]
        struct Ack {
            topics: Vec<String>,
        }
        let at = position(data);
        self.behind = self.since != Since::Now;
        // `now` means that there is no catch-up. So the client is already at the position of the acknowledgement.
        if self.since == Since::Now {
            self.move_to(at);
        }
        let topics = serde_json::from_str(data).map_or_else(|_| Vec::new(), |ack: Ack| ack.topics);
        self.deaf = topics.is_empty() && !self.settings.topics.is_empty();
        if self.deaf {
            return None;
        }
        let at = at.map_or_else(String::new, |at| format!(" at {at}"));
        let again = if self.connections > 1 { "connected again" } else { "connected" };
        Some((Tone::Good, format!("{again} to {}{at}: {}", self.dialer.endpoint(), printable(&topics.join(", ")))))
    }

    /// Handles the start of a catch-up. A subscription that does not resume at the position gets its current state
    /// again. Its messages are shown even if the previous connection delivered them.
    fn catches_up(&mut self, data: &str) {
        #[derive(Deserialize)]
        struct CatchUp {
            topics: HashMap<String, Topic>,
        }
        #[derive(Deserialize)]
        struct Topic {
            mode: String,
        }
        self.behind = true;
        let resumes = |topic: &Topic| matches!(topic.mode.as_str(), "replayed" | "conflated");
        match serde_json::from_str::<CatchUp>(data) {
            Ok(told) => {
                let restated = told.topics.into_iter().filter(|(_, topic)| !resumes(topic));
                restated.for_each(|(subscription, _)| self.overlap.restate(subscription));
            }
            Err(_) => self.overlap.forget(),
        }
    }

    /// Handles the announcement of a shutdown: the server closes this connection after `after_ms`. Chooses a random
    /// moment in the first half of that time to open the next connection. So clients reconnect at different moments,
    /// and have time to catch up.
    fn leave(&mut self, data: &str) -> String {
        #[derive(Deserialize)]
        struct Data {
            after_ms: u64,
        }
        let after = serde_json::from_str(data).map_or(0, |data: Data| data.after_ms);
        let after = Duration::from_millis(after);
        self.leave_at = Instant::now().checked_add(after.mul_f64(fastrand::f64() / 2.0));
        let seconds = after.as_secs_f64();
        format!("the server is shutting down, and closes this connection in {seconds:.1} s")
    }

    fn move_to(&mut self, position: Option<Position>) {
        if let Some(position) = position {
            self.since = Since::Position(position);
        }
    }

    async fn note(&self, tone: Tone, text: String) -> Result<(), Unread> {
        self.lines.send(Line::Notice(Notice { tone, text })).await.map_err(|_| Unread)
    }
}

/// The parts of a message that the follower reads.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    id: Option<&'a str>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Head<'_> {
    fn position(&self) -> Option<Position> {
        self.id.and_then(|id| id.parse().ok())
    }
}

fn position(data: &str) -> Option<Position> {
    #[derive(Deserialize)]
    struct Data<'a> {
        position: &'a str,
    }
    serde_json::from_str::<Data<'_>>(data).ok()?.position.parse().ok()
}

/// The detail of an `error` message.
fn detail(data: &str) -> String {
    #[derive(Deserialize)]
    struct Data {
        detail: String,
    }
    serde_json::from_str(data).map_or_else(|_| printable(data), |data: Data| printable(&data.detail))
}

/// Standard output is closed.
struct Unread;

impl From<Unread> for TailEnd {
    fn from(Unread: Unread) -> Self {
        Self::Unread
    }
}

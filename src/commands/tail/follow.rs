//! Keeps a connection to the server, and resumes where the last one ended.
//!
//! Of a server that shuts down the next connection is opened before it closes this one, which goes on until then: what
//! comes over both is told once. A broadcast has no position to go on from: one that was sent before the next connection
//! was there, and that this one has yet to bring when it is left, is lost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;

use super::connection::{self, End, Socket};
use super::notice::{Notice, Tone};
use super::overlap::Overlap;
use super::print::Line;
use crate::commands::backoff::Backoff;
use crate::commands::dial::Dialer;
use crate::commands::{Failure, grouped, messages, printable};
use crate::config::commands::Tail;
use crate::log::Since;
use crate::message::Position;

/// A connection that lasted this long was a good one: the next wait is a first one again.
const STABLE: Duration = Duration::from_secs(10);

/// A connection on its way; it has a deadline of its own.
type Opening = BoxFuture<'static, Result<Socket, End>>;

/// Follows one server's messages.
pub(super) struct Follower {
    dialer: Dialer,
    settings: Tail,
    lines: Sender<Line>,
    /// Where the next connection begins.
    since: Since,
    /// Topics were asked for, and the connection has none of them.
    deaf: bool,
    /// What was missed, or is the state to begin with, is still to come.
    behind: bool,
    /// When to open the connection that goes on for this one, whose server shuts down.
    leave_at: Option<Instant>,
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

    /// Follows until nobody reads, or trying again is of no use.
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
                End::Replaced(socket) => {
                    self.next = Some(Box::pin(std::future::ready(Ok(*socket))));
                    self.hand_over();
                }
                End::Unread => return Ok(()),
                End::Final(reason) => return Err(Failure::Failed(reason)),
                // The server has closed it before the next one was open, which is as good as one that begins now.
                End::Lost(reason, _) if self.next.is_some() => {
                    self.hand_over();
                    let text = format!("{reason}; the next connection is being opened");
                    if self.note(Tone::Aside, text).await.is_err() {
                        return Ok(());
                    }
                }
                End::Lost(reason, asked) => {
                    let wait = self.backoff.next(asked);
                    let text = format!("{reason}; trying again in {:.1} s", wait.as_secs_f64());
                    if self.note(Tone::Warning, text).await.is_err() {
                        return Ok(());
                    }
                    tokio::time::sleep_until(Instant::now() + wait).await;
                }
            }
        }
    }

    /// Says what was seen and how to go on, where there is room for it.
    pub(super) fn say_goodbye(&self) {
        let messages = messages(self.messages);
        let connections = match self.connections {
            ..=1 => String::new(),
            count => format!(" over {} connections", grouped(count)),
        };
        let next = match self.since {
            Since::Position(position) => format!("; go on with --since {position}"),
            Since::Now | Since::Snapshot => String::new(),
        };
        let text = format!("{messages}{connections}{next}");
        // A full queue is a reader that takes nothing, and has no use for this.
        let _ = self.lines.try_send(Line::Notice(Notice { tone: Tone::Aside, text }));
    }

    /// A connection that begins where this one stands now.
    fn opening(&mut self) -> Opening {
        self.overlap.begin();
        let request = connection::request(self.dialer.endpoint(), &self.settings, self.since);
        Box::pin(connection::open(self.dialer.clone(), request))
    }

    /// The connection that is `next` goes on for this one.
    fn hand_over(&mut self) {
        self.overlap.hand_over(match self.since {
            Since::Position(position) => Some(position),
            Since::Now | Since::Snapshot => None,
        });
    }

    /// Reads to the end of the connection. One on which nothing comes is asked for a sign of life, and given up without.
    async fn read(&mut self, mut socket: Socket) -> End {
        (self.connections, self.leave_at, self.next) = (self.connections + 1, None, None);
        let idle = self.settings.idle_timeout;
        let mut heard = Instant::now();
        let mut pings = tokio::time::interval_at(heard + idle / 3, idle / 3);
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout_at(heard + idle, socket.next()) => frame,
                _ = pings.tick() => {
                    let ping = tokio::time::timeout_at(heard + idle, socket.send(Frame::Ping(Vec::new().into())));
                    // An error comes out of reading too, with what the server said before.
                    let _: Result<_, _> = ping.await;
                    continue;
                }
                next = self.replacement() => {
                    connection::leave(socket);
                    return End::Replaced(Box::new(next));
                }
            };
            let Ok(frame) = frame else {
                return End::Lost(format!("nothing came for {}", humantime::format_duration(idle)), None);
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
                Some(Err(error)) => return End::Lost(format!("the connection is lost: {error}"), None),
                None => return End::Lost("the connection is lost".to_owned(), None),
            }
        }
    }

    /// Opens the connection that goes on for this one once the server has said that it shuts down; before that it waits. An
    /// attempt goes on where this is dropped and called again. One that fails is made again for as long as this connection
    /// lasts, behind which everything is as after any other end. None begins in a catch-up, since where it would begin is
    /// not known before the end of it.
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
                Err(End::Lost(_, asked)) => self.leave_at = Some(Instant::now() + self.backoff.next(asked)),
                Err(_) => self.leave_at = None,
            }
        }
    }

    /// Takes a message: hands it on, remembers where it stands, and says what it means for the connection.
    async fn take(&mut self, text: Utf8Bytes) -> Result<(), End> {
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
        let Ok(head) = serde_json::from_str::<Head<'_>>(&text) else {
            let text = "a message that is no JSON object with 'type' and 'data'".to_owned();
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
                // The next server may have got less far than the last had when it was left.
                self.move_to(position(head.data.get()).filter(|at| !self.overlap.has_reached(*at)));
                None
            }
            // The server says next why there is nothing to listen to.
            "error" if self.deaf => return Err(End::Final(detail(head.data.get()))),
            "reconnect" => Some((Tone::Aside, self.leave(head.data.get()))),
            _ => {
                let at = head.id.and_then(|id| id.parse().ok());
                let topic = head.topic.as_deref().unwrap_or_default();
                let is_repeated = match at {
                    Some(at) => self.overlap.has_message(at, topic, head.key.as_deref()),
                    None => self.overlap.has_broadcast(&text, self.next.is_some()),
                };
                if is_repeated {
                    return Ok(());
                }
                self.messages += u64::from(head.id.is_some());
                self.move_to(at);
                None
            }
        };
        // The connection is announced before its first message, and a farewell after what led to it.
        if let Some((tone, text)) = note {
            self.note(tone, text).await?;
        }
        self.lines.send(Line::Message(text)).await.map_err(|_| End::Unread)
    }

    fn acknowledged(&mut self, data: &str) -> Option<(Tone, String)> {
        #[derive(Deserialize)]
        struct Ack {
            topics: Vec<String>,
        }
        let at = position(data);
        self.behind = self.since != Since::Now;
        // Who begins with what comes next misses nothing from here on; who catches up still has that before them.
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

    /// A catch-up that does not go on from where it was asked to brings again what was there before, as it is now.
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
        let goes_on = |topic: &Topic| matches!(topic.mode.as_str(), "replayed" | "conflated");
        match serde_json::from_str::<CatchUp>(data) {
            Ok(told) => {
                let anew = told.topics.into_iter().filter(|(_, topic)| !goes_on(topic));
                anew.for_each(|(subscription, _)| self.overlap.bring_anew(subscription));
            }
            Err(_) => self.overlap.forget(),
        }
    }

    /// The server shuts down, and closes this connection when it is its turn; until then all is delivered. The next one is
    /// opened early enough to be caught up by then, and not at the same moment as everybody else's.
    fn leave(&mut self, data: &str) -> String {
        #[derive(Deserialize)]
        struct Data {
            after_ms: u64,
        }
        let after = serde_json::from_str(data).map_or(0, |data: Data| data.after_ms);
        let after = Duration::from_millis(after);
        self.leave_at = Instant::now().checked_add(after.mul_f64(fastrand::f64() / 2.0));
        let seconds = after.as_secs_f64();
        format!("the server is shutting down, and ends this connection in {seconds:.1} s")
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

fn position(data: &str) -> Option<Position> {
    #[derive(Deserialize)]
    struct Data<'a> {
        position: &'a str,
    }
    serde_json::from_str::<Data<'_>>(data).ok()?.position.parse().ok()
}

/// What an `error` says.
fn detail(data: &str) -> String {
    #[derive(Deserialize)]
    struct Data {
        detail: String,
    }
    serde_json::from_str(data).map_or_else(|_| printable(data), |data: Data| printable(&data.detail))
}

/// Nobody reads what is written.
struct Unread;

impl From<Unread> for End {
    fn from(Unread: Unread) -> Self {
        Self::Unread
    }
}

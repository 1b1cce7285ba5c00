//! Keeps a connection to the server, and resumes where the last one ended.

use std::borrow::Cow;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Frame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::notice::{Notice, Tone};
use super::print::Line;
use crate::close::Close;
use crate::commands::backoff::Backoff;
use crate::commands::client::{AGENT, Refusal};
use crate::commands::dial::{Dialer, Stream};
use crate::commands::{Failure, grouped, printable};
use crate::config::commands::Tail;
use crate::log::Since;
use crate::message::Position;

/// The handshake must be over within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection that lasted this long was a good one: the next wait is a first one again.
const STABLE: Duration = Duration::from_secs(10);

/// Follows one server's messages.
pub(super) struct Follower {
    dialer: Dialer,
    settings: Tail,
    lines: Sender<Line>,
    /// Where the next connection begins.
    since: Since,
    backoff: Backoff,
    messages: u64,
    connections: u64,
}

/// Why a connection is over, and whether another one may help.
enum End {
    /// Nobody reads what is written.
    Unread,
    /// It is of no use to try again.
    Final(String),
    /// The connection is lost, or there was none; the server may say how long to stay away.
    Lost(String, Option<Duration>),
}

impl Follower {
    pub(super) fn new(dialer: Dialer, settings: Tail, lines: Sender<Line>) -> Self {
        let since = settings.since;
        Self { dialer, settings, lines, since, backoff: Backoff::default(), messages: 0, connections: 0 }
    }

    /// Follows until nobody reads, or trying again is of no use.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        loop {
            let began = Instant::now();
            let end = match self.connect().await {
                Ok(socket) => self.read(socket).await,
                Err(end) => end,
            };
            if began.elapsed() >= STABLE {
                self.backoff.reset();
            }
            match end {
                End::Unread => return Ok(()),
                End::Final(reason) => return Err(Failure::Failed(reason)),
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
        let messages = grouped(self.messages);
        let connections = match self.connections {
            ..=1 => String::new(),
            count => format!(" over {} connections", grouped(count)),
        };
        let next = match self.since {
            Since::Position(position) => format!("; go on with --since {position}"),
            Since::Now | Since::Snapshot => String::new(),
        };
        let text = format!("{messages} messages{connections}{next}");
        // A full queue is a reader that takes nothing, and has no use for this.
        let _ = self.lines.try_send(Line::Notice(Notice { tone: Tone::Aside, text }));
    }

    async fn connect(&mut self) -> Result<WebSocketStream<Stream>, End> {
        let stream = self.dialer.dial().await.map_err(|error| End::Lost(error.to_string(), None))?;
        let opening = tokio::time::timeout(
            HANDSHAKE,
            tokio_tungstenite::client_async_with_config(self.request(), stream, Some(limits())),
        )
        .await;
        let url = self.dialer.endpoint();
        match opening {
            Ok(Ok((socket, _))) => {
                self.connections += 1;
                Ok(socket)
            }
            Ok(Err(Error::Http(answer))) => {
                let (head, body) = answer.into_parts();
                let refusal = Refusal::of(head.status, &head.headers, &body.unwrap_or_default());
                let other = if refusal.code.is_empty() { "; is that an oddswire server?" } else { "" };
                let reason = format!("{url} answered {refusal}{other}");
                if refusal.is_temporary() {
                    Err(End::Lost(reason, refusal.retry_after))
                } else {
                    Err(End::Final(reason))
                }
            }
            Ok(Err(error)) => Err(End::Lost(format!("no handshake with {url}: {error}"), None)),
            Err(_) => Err(End::Lost(format!("no handshake with {url} within {HANDSHAKE:?}"), None)),
        }
    }

    fn request(&self) -> Request<()> {
        let endpoint = self.dialer.endpoint();
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.settings.topics.is_empty() {
            let topics: Vec<String> = self.settings.topics.iter().map(ToString::to_string).collect();
            query.append_pair("topics", &topics.join(","));
        }
        match self.since {
            Since::Now => {}
            Since::Snapshot => _ = query.append_pair("since", "snapshot"),
            Since::Position(position) => _ = query.append_pair("since", &position.to_string()),
        }
        let scheme = if endpoint.is_tls() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{}?{}", endpoint.authority(), endpoint.path("/api/ws"), query.finish());
        let mut request = url.into_client_request().expect("an endpoint and an encoded query make a URL");
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(token) = &self.settings.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).expect("a token is visible ASCII");
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        request
    }

    /// Reads to the end of the connection. One on which nothing comes is asked for a sign of life, and given up without.
    async fn read(&mut self, mut socket: WebSocketStream<Stream>) -> End {
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
            };
            let Ok(frame) = frame else {
                return End::Lost(format!("nothing came for {}", humantime::format_duration(idle)), None);
            };
            heard = Instant::now();
            match frame {
                Some(Ok(Frame::Text(text))) => {
                    if self.take(text).await.is_err() {
                        return End::Unread;
                    }
                }
                Some(Ok(Frame::Close(frame))) => return closed(frame),
                Some(Ok(_)) => {}
                Some(Err(error)) => return End::Lost(format!("the connection is lost: {error}"), None),
                None => return End::Lost("the connection is lost".to_owned(), None),
            }
        }
    }

    /// Takes a message: hands it on, remembers where it stands, and says what it means for the connection.
    async fn take(&mut self, text: Utf8Bytes) -> Result<(), Unread> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            id: Option<&'a str>,
            #[serde(borrow)]
            data: &'a RawValue,
        }
        let Ok(head) = serde_json::from_str::<Head<'_>>(&text) else {
            return self
                .note(Tone::Warning, "a message that is no JSON object with 'type' and 'data'".to_owned())
                .await;
        };
        let note = match head.kind.as_ref() {
            "connection_ack" => Some(self.acknowledged(head.data.get())),
            "caught_up" => {
                self.move_to(position(head.data.get()));
                None
            }
            "reconnect" => Some((Tone::Aside, going(head.data.get()))),
            _ => {
                self.messages += u64::from(head.id.is_some());
                self.move_to(head.id.and_then(|id| id.parse().ok()));
                None
            }
        };
        // The connection is announced before its first message, and a farewell after what led to it.
        if let Some((tone, text)) = note {
            self.note(tone, text).await?;
        }
        self.lines.send(Line::Message(text)).await.map_err(|_| Unread)
    }

    fn acknowledged(&mut self, data: &str) -> (Tone, String) {
        #[derive(Deserialize)]
        struct Ack {
            topics: Vec<String>,
        }
        let at = position(data);
        // Who begins with what comes next misses nothing from here on; who catches up still has that before them.
        if self.since == Since::Now {
            self.move_to(at);
        }
        let topics = serde_json::from_str(data).map_or_else(|_| Vec::new(), |ack: Ack| ack.topics).join(", ");
        let at = at.map_or_else(String::new, |at| format!(" at {at}"));
        let again = if self.connections > 1 { "connected again" } else { "connected" };
        (Tone::Good, format!("{again} to {}{at}: {}", self.dialer.endpoint(), printable(&topics)))
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

/// Nobody reads what is written.
struct Unread;

/// A message may be as long as a server can be told to take (`publish-message-bytes`), and its envelope around it.
fn limits() -> WebSocketConfig {
    const LONGEST: usize = (1 << 30) + (1 << 20);
    WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST))
}

fn position(data: &str) -> Option<Position> {
    #[derive(Deserialize)]
    struct Data<'a> {
        position: &'a str,
    }
    serde_json::from_str::<Data<'_>>(data).ok()?.position.parse().ok()
}

/// The server shuts down. It closes the connection itself, when it is this connection's turn; until then all is delivered.
fn going(data: &str) -> String {
    #[derive(Deserialize)]
    struct Data {
        after_ms: u64,
    }
    let after = serde_json::from_str(data).map_or(0, |data: Data| data.after_ms);
    format!(
        "the server is shutting down, and ends this connection in {:.1} s",
        Duration::from_millis(after).as_secs_f64()
    )
}

/// What a close frame means: of the server's own codes the table says whether to come back, and a 1000 says not to.
fn closed(frame: Option<CloseFrame>) -> End {
    let Some(frame) = frame else { return End::Lost("the server closed the connection".to_owned(), None) };
    let code = u16::from(frame.code);
    let reason = format!("the server closed the connection with {code}: {}", printable(&frame.reason));
    let row = Close::ALL.iter().map(|close| close.row()).find(|row| row.code == code);
    if row.map_or(code != 1000, |row| row.reconnect) { End::Lost(reason, None) } else { End::Final(reason) }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    #[test]
    fn the_table_of_close_codes_says_whether_to_come_back() {
        let comes_back = |code: u16| {
            let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
            matches!(closed(Some(frame)), End::Lost(..))
        };
        for close in Close::ALL {
            assert_eq!(comes_back(close.row().code), close.row().reconnect, "{close:?}");
        }
        assert!(!comes_back(1000), "a normal end");
        assert!(comes_back(1006) && comes_back(1012), "what a proxy says");
        assert!(matches!(closed(None), End::Lost(..)));
    }
}

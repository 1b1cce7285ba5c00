//! The reader: handles the client's frames and requests, and sends keep-alive pings.
//!
//! The library `tungstenite` implements the protocol (RFC 6455). The library reads the socket without blocking. Its
//! pongs and close frames go into the outbox like all other output.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use slog::{Logger, debug, warn};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::Message;

use super::inbound::{Inbound, Pipe, TooManyFragments};
use super::requests::Requests;
use super::{End, SessionLimits};
use crate::close::Close;
use crate::manager::Connection;
use crate::message::{Frames, Opcode};
use crate::outbox::{Outbox, Outgoing};

/// The maximum number of bytes that the server drops after its close frame. A client that sends more is flooding, and the
/// reset that it gets instead is its own doing.
const MAX_DISCARDED: usize = 1 << 20;

pub(super) struct Reader {
    socket: OwnedReadHalf,
    /// `None` until the client sends something.
    inbound: Option<Box<Inbound>>,
    limits: SessionLimits,
    requests: Requests,
    /// When the client last sent bytes.
    heard: Instant,
    /// The number of pings that the client has not answered.
    pings: u32,
    /// The code of the peer's close frame, once received.
    peer_code: Option<u16>,
    logger: Logger,
}

impl Reader {
    pub(super) fn new(
        socket: OwnedReadHalf,
        early: Vec<u8>,
        limits: SessionLimits,
        requests: Requests,
        logger: Logger,
    ) -> Self {
        let heard = Instant::now();
        let mut reader = Self { socket, inbound: None, limits, requests, heard, pings: 0, peer_code: None, logger };
        if !early.is_empty() {
            reader.receive(early.into());
        }
        reader
    }

    /// Creates the state for input, once the client sends something.
    fn receive(&mut self, early: Bytes) {
        self.inbound = Some(Box::new(Inbound::new(early, self.limits.client_message_bytes)));
    }

    /// Reads until the connection ends. Returns `None` if the writer ended it.
    pub(super) async fn run(&mut self, connection: &Connection) -> Option<End> {
        loop {
            // A client that sends without reading fills its outbox with answers. Read from the client only while the
            // outbox has room.
            if !self.has_room(connection.outbox()).await {
                return None;
            }
            match self.next(connection.outbox()) {
                Ok(Some(message)) => {
                    if self.is_too_fast(&message) {
                        connection.outbox().close(Close::TooManyMessages);
                        return Some(End::Closed(Close::TooManyMessages));
                    }
                    self.take(message, connection);
                }
                // Unlike `consume_budget` below, this also lets the runtime check which other sockets have become
                // ready.
                Ok(None) if self.is_spent() => {
                    tokio::task::yield_now().await;
                    self.begin_turn();
                }
                Ok(None) => match self.wait(connection.outbox()).await {
                    Waited::Readable => {}
                    Waited::Over => return None,
                    Waited::Broken(error) => return Some(End::Broken(error)),
                },
                Err(error) => return Some(self.end(error, connection)),
            }
            // The scheduler does not count non-blocking reads. Without this call, a client that floods the server would
            // keep the thread busy.
            tokio::task::coop::consume_budget().await;
        }
    }

    fn is_spent(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| inbound.feed.is_spent())
    }

    fn begin_turn(&mut self) {
        if let Some(inbound) = &mut self.inbound {
            inbound.feed.begin_turn();
        }
    }

    /// Waits for room in the outbox until the token expires. Returns `false` once the writer has ended.
    async fn has_room(&self, outbox: &Outbox) -> bool {
        let Some(expires) = self.requests.expires() else { return outbox.room().await };
        if let Ok(room) = tokio::time::timeout_at(expires, outbox.room()).await {
            return room;
        }
        outbox.close(Close::TokenExpired);
        outbox.closed().await;
        false
    }

    pub(super) fn logger(&self) -> &Logger {
        &self.logger
    }

    /// Reads and drops input until the peer ends the connection, or has sent [`MAX_DISCARDED`].
    pub(super) async fn discard(&self) {
        let mut discarded = 0;
        while discarded < MAX_DISCARDED && self.socket.readable().await.is_ok() {
            match self.socket.try_read(&mut [0; 4096]) {
                Ok(read @ 1..) => discarded += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
            // Without this call, a client that floods the server would keep the thread busy.
            tokio::task::yield_now().await;
        }
    }

    /// The next message; `None` if no message is complete within this turn's bytes.
    fn next(&mut self, outbox: &Outbox) -> Result<Option<Message>, Error> {
        let Some(inbound) = &mut self.inbound else { return Ok(None) };
        let Inbound { context, feed } = inbound.as_mut();
        let mut pipe = Pipe { socket: &self.socket, outbox, heard: &mut self.heard, feed };
        match context.read(&mut pipe) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(Some),
        }
    }

    /// Waits for input. Sends a ping after each `ping-interval` without input. Closes the connection after
    /// `idle-timeout` without input, or when the client's token expires.
    async fn wait(&mut self, outbox: &Outbox) -> Waited {
        let mut idle_end = self.heard + self.limits.idle_timeout;
        let expires = self.requests.expires();
        let mut ping_due = self.heard + self.limits.ping_interval;
        loop {
            let next = expires.into_iter().chain([ping_due, idle_end]).min().unwrap_or(idle_end);
            tokio::select! {
                ready = self.socket.readable() => {
                    if self.inbound.is_none() {
                        self.receive(Bytes::new());
                    }
                    return ready.map_or_else(Waited::Broken, |()| Waited::Readable);
                }
                () = outbox.closed() => return Waited::Over,
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            let close = if expires.is_some_and(|expires| now >= expires) {
                Close::TokenExpired
            } else if now >= idle_end && outbox.queued() > 0 {
                // The pings are queued behind data that a slow client has not taken yet. So only `write-timeout`
                // applies.
                idle_end = now + self.limits.idle_timeout;
                continue;
            } else if now >= idle_end {
                Close::KeepAlive
            } else {
                ping_due += self.limits.ping_interval;
                self.pings = self.pings.saturating_add(1);
                outbox.push(Outgoing::Control(Arc::new(Frames::control(Opcode::Ping, b""))));
                continue;
            };
            outbox.close(close);
            // The writer ends once the close frame is written, or once the peer stalls.
            outbox.closed().await;
            return Waited::Over;
        }
    }

    /// Counts a message against the client's rate, unless it is the answer to a ping of the server or a close frame.
    fn is_too_fast(&mut self, message: &Message) -> bool {
        let is_answer = matches!(message, Message::Pong(_)) && self.pings > 0;
        if is_answer {
            self.pings -= 1;
        }
        !is_answer && !matches!(message, Message::Close(_)) && self.requests.is_too_fast()
    }

    fn take(&mut self, message: Message, connection: &Connection) {
        match message {
            Message::Text(text) => self.requests.obey(&text, connection, &self.logger),
            Message::Binary(bytes) => {
                warn!(self.logger, "ws.malformed_message"; "error" => "binary message", "bytes" => bytes.len());
            }
            Message::Close(frame) => self.peer_code = frame.map(|frame| frame.code.into()),
            // The library answers pings itself. A pong only shows that the client is alive.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// Maps an error of the library to the end of the connection.
    fn end(&self, error: Error, connection: &Connection) -> End {
        let close = match error {
            Error::ConnectionClosed | Error::AlreadyClosed => return End::Peer(self.peer_code),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return End::Eof,
            Error::Io(ref error) if TooManyFragments::caused(error) => Close::TooManyFragments,
            Error::Io(error) => return End::Broken(error),
            Error::Utf8(_) => Close::InvalidUtf8,
            Error::Capacity(_) => Close::TooBig,
            _ => Close::Protocol,
        };
        debug!(self.logger, "ws.protocol_error"; "error" => %error, "code" => close.row().code);
        connection.outbox().close(close);
        End::Closed(close)
    }
}

enum Waited {
    Readable,
    Over,
    Broken(io::Error),
}

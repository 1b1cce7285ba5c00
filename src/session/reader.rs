//! The reader: RFC 6455 from the client's side, its requests, and the keep-alive.
//!
//! The protocol is `tungstenite`'s, over the socket's read half without a wrapper: its reads are the socket's
//! non-blocking reads, and what it wants to write (pong, close) goes into the outbox like everything else.

use std::io::{self, Read, Write};
use std::sync::Arc;

use slog::{Logger, debug, warn};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::requests::Requests;
use super::{End, Limits};
use crate::close::Close;
use crate::manager::Connection;
use crate::message::{Frames, Opcode};
use crate::outbox::{Outbox, Outgoing};

/// Clients say little, so the buffer of a connection is small: a frame with more is read in several steps.
const READ_BUFFER: usize = 512;

pub(super) struct Reader {
    socket: OwnedReadHalf,
    /// The library's state and buffer: none until the client says something.
    context: Option<Box<WebSocketContext>>,
    limits: Limits,
    requests: Requests,
    /// When bytes last came.
    heard: Instant,
    /// The code in the peer's close frame, once that came.
    peer_code: Option<u16>,
    logger: Logger,
}

/// The socket as the library sees it.
struct Pipe<'a> {
    socket: &'a OwnedReadHalf,
    outbox: &'a Outbox,
    heard: &'a mut Instant,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.try_read(buffer)?;
        *self.heard = Instant::now();
        Ok(read)
    }
}

impl Write for Pipe<'_> {
    /// The library writes one whole frame at a time: a pong or the answer to a close.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        let frames = Frames::raw(frame.to_vec());
        if frame.first().is_some_and(|first| first & 0x0f == Opcode::Close as u8) {
            self.outbox.answer_close(frames);
        } else {
            self.outbox.push(Outgoing::Control(Arc::new(frames)));
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reader {
    pub(super) fn new(
        socket: OwnedReadHalf,
        early: Vec<u8>,
        limits: Limits,
        requests: Requests,
        logger: Logger,
    ) -> Self {
        let heard = Instant::now();
        let mut reader = Self { socket, context: None, limits, requests, heard, peer_code: None, logger };
        if !early.is_empty() {
            reader.context = Some(reader.new_context(early));
        }
        reader
    }

    fn new_context(&self, early: Vec<u8>) -> Box<WebSocketContext> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(self.limits.client_message_bytes))
            .max_frame_size(Some(self.limits.client_message_bytes));
        Box::new(WebSocketContext::from_partially_read(early, Role::Server, Some(config)))
    }

    /// Reads until the connection ends; `None` where the writer ended it.
    pub(super) async fn run(&mut self, connection: &Connection) -> Option<End> {
        loop {
            // A client that sends and does not read fills its outbox with answers: it is not read from until it does.
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
                Ok(None) => match self.wait(connection.outbox()).await {
                    Waited::Readable => {}
                    Waited::Over => return None,
                    Waited::Broken(error) => return Some(End::Broken(error)),
                },
                Err(error) => return Some(self.end(error, connection)),
            }
            // Non-blocking reads do not count for the scheduler: without this a flood would keep the thread.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Waits for room in the outbox, but not beyond the token's time; `false` where the writer has ended.
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

    /// Reads and drops until the peer ends the connection.
    pub(super) async fn discard(&self) {
        while self.socket.readable().await.is_ok() {
            match self.socket.try_read(&mut [0; 4096]) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    /// The next message, if it is there already.
    fn next(&mut self, outbox: &Outbox) -> Result<Option<Message>, Error> {
        let Some(context) = &mut self.context else { return Ok(None) };
        let mut pipe = Pipe { socket: &self.socket, outbox, heard: &mut self.heard };
        match context.read(&mut pipe) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(Some),
        }
    }

    /// Waits for input, keeping the connection alive: a ping after each `ping-interval` of silence, the end after
    /// `idle-timeout`, or when the client's token expires.
    async fn wait(&mut self, outbox: &Outbox) -> Waited {
        let mut idle_end = self.heard + self.limits.idle_timeout;
        let expires = self.requests.expires();
        let mut ping_due = self.heard + self.limits.ping_interval;
        loop {
            let next = expires.into_iter().chain([ping_due, idle_end]).min().unwrap_or(idle_end);
            tokio::select! {
                ready = self.socket.readable() => {
                    if self.context.is_none() {
                        self.context = Some(self.new_context(Vec::new()));
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
                // The pings stand behind what a slow client has yet to take: the write timeout judges it.
                idle_end = now + self.limits.idle_timeout;
                continue;
            } else if now >= idle_end {
                Close::KeepAlive
            } else {
                ping_due += self.limits.ping_interval;
                outbox.push(Outgoing::Control(Arc::new(Frames::control(Opcode::Ping, b""))));
                continue;
            };
            outbox.close(close);
            // The writer ends once that is out, or once it stalls.
            outbox.closed().await;
            return Waited::Over;
        }
    }

    /// A pong is the answer to a ping of ours, and a close is the last: all else counts.
    fn is_too_fast(&mut self, message: &Message) -> bool {
        !matches!(message, Message::Pong(_) | Message::Close(_)) && self.requests.is_too_fast()
    }

    fn take(&mut self, message: Message, connection: &Connection) {
        match message {
            Message::Text(text) => self.requests.obey(&text, connection, &self.logger),
            Message::Binary(bytes) => {
                warn!(self.logger, "ws.malformed_message"; "error" => "binary message", "bytes" => bytes.len());
            }
            Message::Close(frame) => self.peer_code = frame.map(|frame| frame.code.into()),
            // The library answers pings itself; a pong has done its work by arriving.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// What an error of the library means for the connection.
    fn end(&self, error: Error, connection: &Connection) -> End {
        let close = match error {
            Error::ConnectionClosed | Error::AlreadyClosed => return End::Peer(self.peer_code),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return End::Eof,
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

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

use super::{End, Limits};
use crate::close::Close;
use crate::manager::Connection;
use crate::message::{Frames, Opcode};
use crate::outbox::{Outbox, Outgoing};
use crate::protocol::{self, ClientMessage, ClientMessageError};

/// Clients say little, so the buffer of a connection is small: a frame with more is read in several steps.
const READ_BUFFER: usize = 512;

pub(super) struct Reader {
    socket: OwnedReadHalf,
    /// The library's state and buffer: none until the client says something.
    context: Option<Box<WebSocketContext>>,
    limits: Limits,
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
        self.outbox.push(Outgoing::Control(Arc::new(Frames::raw(frame.to_vec()))));
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reader {
    pub(super) fn new(socket: OwnedReadHalf, early: Vec<u8>, limits: Limits, logger: Logger) -> Self {
        let mut reader = Self { socket, context: None, limits, heard: Instant::now(), peer_code: None, logger };
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
            if !connection.outbox().room().await {
                return None;
            }
            match self.next(connection.outbox()) {
                Ok(Some(message)) => self.take(message, connection),
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
    /// `idle-timeout`.
    async fn wait(&mut self, outbox: &Outbox) -> Waited {
        let idle_end = self.heard + self.limits.idle_timeout;
        let mut ping_due = self.heard + self.limits.ping_interval;
        loop {
            tokio::select! {
                ready = self.socket.readable() => {
                    if self.context.is_none() {
                        self.context = Some(self.new_context(Vec::new()));
                    }
                    return ready.map_or_else(Waited::Broken, |()| Waited::Readable);
                }
                () = outbox.closed() => return Waited::Over,
                () = tokio::time::sleep_until(ping_due.min(idle_end)) => {}
            }
            if Instant::now() >= idle_end {
                outbox.close(Close::KeepAlive);
                // The writer ends once that is out, or once it stalls.
                outbox.closed().await;
                return Waited::Over;
            }
            ping_due += self.limits.ping_interval;
            outbox.push(Outgoing::Control(Arc::new(Frames::control(Opcode::Ping, b""))));
        }
    }

    fn take(&mut self, message: Message, connection: &Connection) {
        match message {
            Message::Text(text) => self.obey(&text, connection),
            Message::Binary(bytes) => {
                warn!(self.logger, "ws.malformed_message"; "error" => "binary message", "bytes" => bytes.len());
            }
            Message::Close(frame) => self.peer_code = frame.map(|frame| frame.code.into()),
            // The library answers pings itself; a pong has done its work by arriving.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    fn obey(&mut self, text: &str, connection: &Connection) {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Ping) => connection.tell(protocol::pong()),
            Ok(ClientMessage::Subscribe { topics, since }) => {
                let (known, unknown) = connection.manager().topics().partition(topics);
                connection.subscribe(known, since);
                tell_unknown(&unknown, connection);
            }
            Ok(ClientMessage::Unsubscribe { topics }) => {
                let (known, unknown) = connection.manager().topics().partition(topics);
                connection.unsubscribe(&known);
                tell_unknown(&unknown, connection);
            }
            Err(ClientMessageError::BadRequest(detail)) => {
                connection.tell(protocol::error("bad_request", &detail, &[]));
            }
            Err(ClientMessageError::Malformed(error)) => {
                warn!(self.logger, "ws.malformed_message"; "error" => error, "bytes" => text.len());
            }
            Err(ClientMessageError::UnknownType(kind)) => {
                debug!(self.logger, "ws.unknown_message_type"; "type" => kind);
            }
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

fn tell_unknown(unknown: &[crate::topic::Subscription], connection: &Connection) {
    if !unknown.is_empty() {
        connection.tell(protocol::unknown_topics(unknown, connection.manager().topics()));
    }
}

//! One subscriber: from the TCP connect to the messages it receives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdTcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::dialect::Transport;
use crate::events::Events;
use crate::frames::{self, Frames, Item};
use crate::head::Head;
use crate::tally::Tally;

/// How often to read on one event, so that one server which never stops sending cannot hold up all other connections.
/// What is left is read after the other events.
const READS_PER_TURN: usize = 16;

/// The least receive buffer that the kernel allows.
const SMALL_BUFFER: usize = 2_304;

/// The segment size of a client at the other end of an Ethernet. On the loopback interface it is 45 times as much, and
/// the sender's buffer, which the kernel sizes by it, would hold megabytes for a client that does not read.
const ETHERNET_SEGMENT: u32 = 1_448;

/// How a connection takes what it is sent.
#[derive(Clone, Copy, PartialEq)]
pub enum Ear {
    Open,
    /// Reads nothing once it is established, through small buffers of the kernel.
    Deaf,
}

/// A connection and how far it has come.
pub struct Connection {
    pub stream: TcpStream,
    stage: Stage,
    greeted: bool,
}

enum Stage {
    /// The request is on its way (`written` bytes of it) or being answered.
    Handshake {
        request: Vec<u8>,
        written: usize,
        reply: Vec<u8>,
    },
    WebSocket(Frames),
    Sse(Events),
}

/// What came of the events on a connection.
#[derive(Clone, Copy, PartialEq)]
pub enum Progress {
    /// There is nothing to read any more.
    Waiting,
    /// There may be more to read.
    Unfinished,
}

impl Connection {
    /// Starts to connect from `source` to `target`, without waiting for it.
    pub fn start(source: Ipv4Addr, target: SocketAddr, request: Vec<u8>, ear: Ear) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // Closing with a reset leaves nothing in TIME_WAIT that would keep the port from being used again.
        socket.set_linger(Some(Duration::ZERO))?;
        if ear == Ear::Deaf {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
            socket.set_tcp_mss(ETHERNET_SEGMENT)?;
        }
        let source = SocketAddr::V4(SocketAddrV4::new(source, 0));
        socket.bind(&source.into()).with_context(|| format!("could not bind to a port of {source}"))?;
        match socket.connect(&target.into()) {
            Ok(()) => {}
            // A connect that does not block reports its outcome later.
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error).context("could not connect"),
        }
        Ok(Self {
            stream: TcpStream::from_std(StdTcpStream::from(socket)),
            stage: Stage::Handshake { request, written: 0, reply: Vec::new() },
            greeted: false,
        })
    }

    /// Whether the server has accepted the request and, where it does so, sent a first message.
    pub fn is_established(&self, greets: bool) -> bool {
        !matches!(self.stage, Stage::Handshake { .. }) && (self.greeted || !greets)
    }

    /// Goes on as far as possible without blocking. A read that does not fill the buffer has taken everything there
    /// is (epoll(7)); where the peer has closed its side, only the end of the stream has.
    pub fn advance(&mut self, read_closed: bool, scratch: &mut [u8], tally: &mut Tally) -> Result<Progress> {
        if let Stage::Handshake { request, written, .. } = &mut self.stage
            && !send(&mut self.stream, request, written)?
        {
            return Ok(Progress::Waiting);
        }
        for _ in 0..READS_PER_TURN {
            let count = match self.stream.read(scratch) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waiting),
                Err(error) => return Err(error.into()),
            };
            tally.bytes += count as u64;
            self.take(&scratch[..count], tally)?;
            if count < scratch.len() && !read_closed {
                return Ok(Progress::Waiting);
            }
        }
        Ok(Progress::Unfinished)
    }

    fn take(&mut self, bytes: &[u8], tally: &mut Tally) -> Result<()> {
        let mut ping = None;
        let greeted = &mut self.greeted;
        let mut message = |text: &[u8]| {
            *greeted = true;
            tally.message(text);
        };
        match &mut self.stage {
            Stage::Handshake { reply, .. } => {
                reply.extend_from_slice(bytes);
                return self.finish_handshake(tally);
            }
            Stage::WebSocket(frames) => frames.push(bytes, |item| match item {
                Item::Message(text) => message(text),
                Item::Ping(payload) => ping = Some(frames::pong(payload)),
            })?,
            Stage::Sse(events) => events.push(bytes, message)?,
        }
        if let Some(pong) = ping {
            self.answer(&pong?)?;
        }
        Ok(())
    }

    /// Sends a pong, all of it or nothing: the socket's buffer is empty but for other pongs.
    fn answer(&mut self, pong: &[u8]) -> Result<()> {
        match self.stream.write(pong) {
            Ok(count) => ensure!(count == pong.len(), "there was no room for a pong"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("could not send a pong"),
        }
        Ok(())
    }

    /// Looks for the response head; what follows it belongs to the first messages.
    fn finish_handshake(&mut self, tally: &mut Tally) -> Result<()> {
        let Stage::Handshake { reply, .. } = &mut self.stage else { return Ok(()) };
        let Some(head) = Head::parse(reply)? else { return Ok(()) };
        let rest = reply.split_off(head.size);
        self.stage = match head.status {
            101 => Stage::WebSocket(Frames::default()),
            200 => Stage::Sse(Events::new(head.chunked)),
            status => bail!("the server answered the request with the status {status}"),
        };
        self.take(&rest, tally)
    }
}

/// Sends the rest of the request and returns whether that was all of it. While the connect is pending a write would
/// block, and if the connect has failed the write returns the reason, so that neither needs a query of its own.
fn send(stream: &mut TcpStream, request: &[u8], written: &mut usize) -> Result<bool> {
    while *written < request.len() {
        match stream.write(&request[*written..]) {
            Ok(count) => *written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("could not connect and send the request"),
        }
    }
    Ok(true)
}

/// The request of a subscriber. The key is the example of RFC 6455; nothing depends on its being random where no
/// intermediary could cache a response.
pub fn request(target: SocketAddr, transport: Transport, path: &str) -> Vec<u8> {
    let fields = match transport {
        Transport::Ws => {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        }
        Transport::Sse => "Accept: text/event-stream\r\n",
    };
    format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n").into_bytes()
}

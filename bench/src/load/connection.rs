//! One subscriber: connects, does the WebSocket handshake and receives messages.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdTcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::load::frames::{self, Frames, Item};
use crate::load::head::Head;
use crate::load::tally::Tally;

/// The maximum number of reads from a connection for one epoll event. Without this limit, one busy connection could
/// delay all others. The client reads the remaining bytes after it has handled the other events.
const READS_PER_TURN: usize = 16;

/// The smallest receive buffer that the kernel allows, in bytes.
const SMALL_BUFFER: usize = 2_304;

/// The TCP segment size of a client on Ethernet, in bytes. Segments on the loopback interface are 45 times as large.
/// For such segments, the kernel would give the server a send buffer of megabytes for each client that does not read.
const ETHERNET_SEGMENT: u32 = 1_448;

/// Whether a client reads its messages.
#[derive(Clone, Copy, PartialEq)]
pub enum Reading {
    Always,
    /// Reads nothing after the handshake, and has a small receive buffer.
    Stalled,
}

/// A connection and its progress.
pub struct Connection {
    pub stream: TcpStream,
    stage: Stage,
    greeted: bool,
}

enum Stage {
    /// The client sends the request and collects the response. `written` counts the sent bytes.
    Handshake {
        request: Vec<u8>,
        written: usize,
        reply: Vec<u8>,
    },
    Open(Frames),
}

/// The result of reading from a connection.
#[derive(Clone, Copy, PartialEq)]
pub enum Progress {
    /// The client has read all available bytes.
    Waiting,
    /// The client stopped reading at the limit, so the socket may have more bytes.
    Unfinished,
}

impl Connection {
    /// Starts to connect from `source` to `target` without waiting.
    pub fn start(source: Ipv4Addr, target: SocketAddr, request: Vec<u8>, reading: Reading) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // A close sends a reset and avoids TIME_WAIT, so another connection can use the port at once.
        socket.set_linger(Some(Duration::ZERO))?;
        if reading == Reading::Stalled {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
            socket.set_tcp_mss(ETHERNET_SEGMENT)?;
        }
        let source = SocketAddr::V4(SocketAddrV4::new(source, 0));
        socket.bind(&source.into()).with_context(|| format!("cannot bind to a port of {source}"))?;
        match socket.connect(&target.into()) {
            Ok(()) => {}
            // A non-blocking connect reports its result later.
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error).context("cannot connect"),
        }
        Ok(Self {
            stream: TcpStream::from_std(StdTcpStream::from(socket)),
            stage: Stage::Handshake { request, written: 0, reply: Vec::new() },
            greeted: false,
        })
    }

    /// Whether the server has accepted the request. If the server greets its subscribers, it must also have sent the
    /// first message.
    pub fn is_established(&self, greets: bool) -> bool {
        matches!(self.stage, Stage::Open(_)) && (self.greeted || !greets)
    }

    /// Writes and reads as much as possible without blocking. After a read that does not fill the buffer, the socket is
    /// empty (epoll(7)). If the server has closed its side (`read_closed`), reads until the end of the stream.
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
        let frames = match &mut self.stage {
            Stage::Handshake { reply, .. } => {
                reply.extend_from_slice(bytes);
                return self.finish_handshake(tally);
            }
            Stage::Open(frames) => frames,
        };
        let mut ping = None;
        frames.push(bytes, |item| match item {
            Item::Message(text) => {
                self.greeted = true;
                tally.message(text);
            }
            Item::Ping(payload) => ping = Some(frames::pong(payload)),
        })?;
        if let Some(pong) = ping {
            self.answer(&pong?)?;
        }
        Ok(())
    }

    /// Sends a whole pong, or nothing if the socket's send buffer is full. After the handshake, the client sends only
    /// pongs.
    fn answer(&mut self, pong: &[u8]) -> Result<()> {
        match self.stream.write(pong) {
            Ok(count) => ensure!(count == pong.len(), "the socket's buffer has no room for a pong"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot send a pong"),
        }
        Ok(())
    }

    /// Parses the head of the response when it is complete. The bytes after the head belong to the first messages.
    fn finish_handshake(&mut self, tally: &mut Tally) -> Result<()> {
        let Stage::Handshake { reply, .. } = &mut self.stage else { return Ok(()) };
        let Some(head) = Head::parse(reply)? else { return Ok(()) };
        ensure!(head.status == 101, "the server answered the handshake with the status {}: expected 101", head.status);
        let rest = reply.split_off(head.size);
        self.stage = Stage::Open(Frames::default());
        self.take(&rest, tally)
    }
}

/// Sends the rest of the request and returns whether all of it is sent. While the socket is connecting, a write returns
/// `WouldBlock`. If the connect has failed, the write returns its error. So no separate check is necessary.
fn send(stream: &mut TcpStream, request: &[u8], written: &mut usize) -> Result<bool> {
    while *written < request.len() {
        match stream.write(&request[*written..]) {
            Ok(count) => *written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot connect and send the request"),
        }
    }
    Ok(true)
}

/// The handshake request of a subscriber. Its `Sec-WebSocket-Key` is the example of RFC 6455. Keys are random only to
/// bypass caches, and no cache is between client and server.
pub fn request(target: SocketAddr, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

//! One subscriber: connects, shakes hands and receives messages.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdTcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::load::frames::{self, Frames, Item};
use crate::load::head::Head;
use crate::load::tally::Tally;

/// How often one event reads from a connection. Without this bound, one fast server could delay all other connections.
/// The rest is read after the other events.
const READS_PER_TURN: usize = 16;

/// The smallest receive buffer that the kernel allows.
const SMALL_BUFFER: usize = 2_304;

/// The segment size of a client on Ethernet. The loopback interface has segments 45 times as large. With those, the
/// kernel would size the sender's buffer to hold megabytes for a client that does not read.
const ETHERNET_SEGMENT: u32 = 1_448;

/// Whether a client reads its messages.
#[derive(Clone, Copy, PartialEq)]
pub enum Reading {
    Always,
    /// Reads nothing after the handshake, and has small kernel buffers.
    Stalled,
}

/// A connection and its progress.
pub struct Connection {
    pub stream: TcpStream,
    stage: Stage,
    greeted: bool,
}

enum Stage {
    /// The client sends the request, of which `written` bytes are sent, and collects the response.
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
    /// All available bytes are read.
    Waiting,
    /// There may be more bytes to read.
    Unfinished,
}

impl Connection {
    /// Starts to connect from `source` to `target` without waiting.
    pub fn start(source: Ipv4Addr, target: SocketAddr, request: Vec<u8>, reading: Reading) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // Closing with a reset avoids TIME_WAIT, so the port can be used again at once.
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

    /// Whether the server has accepted the request and, if it greets subscribers, sent the first message.
    pub fn is_established(&self, greets: bool) -> bool {
        matches!(self.stage, Stage::Open(_)) && (self.greeted || !greets)
    }

    /// Writes and reads as much as possible without blocking. A read that does not fill the buffer has emptied the
    /// socket (epoll(7)). If the peer has closed its side, only the end of the stream shows that the socket is empty.
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

    /// Sends a whole pong, or nothing when the socket's buffer is full. The buffer holds only pongs.
    fn answer(&mut self, pong: &[u8]) -> Result<()> {
        match self.stream.write(pong) {
            Ok(count) => ensure!(count == pong.len(), "the socket's buffer has no room for a pong"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot send a pong"),
        }
        Ok(())
    }

    /// Parses the response head when it is complete. The bytes after it belong to the first messages.
    fn finish_handshake(&mut self, tally: &mut Tally) -> Result<()> {
        let Stage::Handshake { reply, .. } = &mut self.stage else { return Ok(()) };
        let Some(head) = Head::parse(reply)? else { return Ok(()) };
        ensure!(head.status == 101, "the server answered the handshake with the status {}: expected 101", head.status);
        let rest = reply.split_off(head.size);
        self.stage = Stage::Open(Frames::default());
        self.take(&rest, tally)
    }
}

/// Sends the rest of the request and returns whether all of it is sent. While the connect is
/// pending, a write returns `WouldBlock`. After a failed connect, it returns the reason. So the connect needs no check.
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

/// The request of a subscriber. The key is the example of RFC 6455, because no cache between client and server requires
/// a random one.
pub fn request(target: SocketAddr, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

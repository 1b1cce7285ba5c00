//! One client connection, from the TCP connect to the first text message.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdTcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::reply::Reply;

/// How often to read from an established connection on one event, so that one
/// server which never stops sending cannot hold up all other connections.
const DISCARD_READS: usize = 64;

/// A connection and how far it has come.
pub struct Connection {
    pub stream: TcpStream,
    stage: Stage,
}

enum Stage {
    /// The request is on its way (`written` bytes of it) or being answered.
    Handshake { written: usize, reply: Reply },
    /// The first text message has arrived.
    Established,
}

/// What the bytes available on a connection amounted to.
enum Input {
    Bytes(usize),
    NothingYet,
}

impl Connection {
    /// Starts to connect from `source` to `target`, without waiting for it.
    pub fn start(source: Ipv4Addr, target: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // Closing with a reset leaves nothing in TIME_WAIT that would keep the
        // port from being used again.
        socket.set_linger(Some(Duration::ZERO))?;
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
            stage: Stage::Handshake { written: 0, reply: Reply::default() },
        })
    }

    /// Goes on as far as possible without blocking, and returns whether the
    /// connection has become established by that.
    pub fn advance(&mut self, request: &[u8], scratch: &mut [u8]) -> Result<bool> {
        let Stage::Handshake { written, reply } = &mut self.stage else {
            self.discard(scratch)?;
            return Ok(false);
        };
        if !send(&mut self.stream, request, written)? {
            return Ok(false);
        }
        // This ends because the reply refuses more than a bounded size.
        while let Input::Bytes(count) = receive(&mut self.stream, scratch).with_context(|| awaiting(reply))? {
            if reply.push(&scratch[..count])? {
                self.stage = Stage::Established;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops what arrives later. A connection that ends is an error, because
    /// it is not idle but gone.
    fn discard(&mut self, scratch: &mut [u8]) -> Result<()> {
        for _ in 0..DISCARD_READS {
            match receive(&mut self.stream, scratch).context("an established connection ended")? {
                Input::Bytes(_) => {}
                Input::NothingYet => break,
            }
        }
        Ok(())
    }
}

fn awaiting(reply: &Reply) -> String {
    format!("the connection failed before {}", reply.awaited())
}

/// Sends the rest of the request and returns whether that was all of it. While
/// the connect is pending a write would block, and if the connect has failed
/// the write returns the reason, so that neither needs a query of its own.
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

/// Reads once. The end of the stream is an error at every stage.
fn receive(stream: &mut TcpStream, scratch: &mut [u8]) -> Result<Input> {
    loop {
        match stream.read(scratch) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => return Ok(Input::Bytes(count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Input::NothingYet),
            Err(error) => return Err(error.into()),
        }
    }
}

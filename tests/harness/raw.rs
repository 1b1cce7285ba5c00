//! A bare TCP connection, for bytes that no well-behaved client sends.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// A complete opening handshake for `/api/ws`.
pub const HANDSHAKE: &str = "GET /api/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub struct Raw {
    pub socket: TcpStream,
}

/// A response. The head is not parsed.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    head: String,
    /// The JSON body, or null.
    pub body: Value,
}

impl Response {
    /// The headers in their original order.
    pub fn headers(&self) -> Vec<(String, String)> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
    }

    pub fn detail(&self) -> &str {
        self.body["error"]["detail"].as_str().unwrap_or_default()
    }
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame.
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, 0x8, "a close frame: {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { socket: within(TcpStream::connect(address)).await.expect("the server accepts") }
    }

    /// Connects with a small receive buffer, so that the server's buffers are soon full if the test does not read.
    pub async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        Self { socket: within(socket.connect(address)).await.expect("the server accepts") }
    }

    /// Connects, completes the handshake and reads the acknowledgement.
    pub async fn websocket(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        raw.shake_hands().await;
        raw
    }

    pub async fn shake_hands(&mut self) {
        self.send(HANDSHAKE.as_bytes()).await;
        self.accepted().await;
    }

    /// Reads the 101 response and the acknowledgement.
    pub async fn accepted(&mut self) {
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert_eq!(self.frame().await.expect("the acknowledgement").opcode, 0x1);
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within(self.socket.write_all(bytes)).await.expect("the connection is open");
    }

    /// Reads the head of a response, including the blank line.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(self.socket.read_u8()).await.expect("a response"));
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads a response and its body.
    pub async fn response(&mut self) -> Response {
        let head = self.head().await;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        let mut response = Response { status, head, body: Value::Null };
        let mut body = vec![0; response.header("content-length").parse().unwrap_or(0)];
        within(self.socket.read_exact(&mut body)).await.expect("the body is whole");
        response.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        response
    }

    /// Sends a ping frame and waits for the pong. The server has then read everything that was sent before.
    pub async fn turn(&mut self) {
        self.send(&frame(0x89, b"turn")).await;
        assert_eq!(self.frame().await, Some(Frame { opcode: 0xa, payload: b"turn".to_vec() }));
    }

    /// Reads a close frame and returns the close code. Checks that the server then ends the connection without a reset.
    pub async fn closed(&mut self) -> u16 {
        let code = self.frame().await.expect("a close frame").close_code();
        let end = within(self.socket.read(&mut [0])).await;
        assert_eq!(end.expect("no reset"), 0, "no byte follows the close frame");
        code
    }

    /// The next frame; `None` if the connection has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 2];
        within(self.socket.read_exact(&mut header)).await.ok()?;
        assert_eq!(header[0] & 0xf0, 0x80, "the frame is final and uses no extension");
        let length = match header[1] {
            126 => usize::from(within(self.socket.read_u16()).await.ok()?),
            127 => usize::try_from(within(self.socket.read_u64()).await.ok()?).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        within(self.socket.read_exact(&mut payload)).await.ok()?;
        Some(Frame { opcode: header[0] & 0x0f, payload })
    }

    /// Reads until the server ends the connection, and returns all bytes.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // The server may also end the connection with a reset.
        let _ = within(self.socket.read_to_end(&mut rest)).await;
        rest
    }
}

/// A masked frame, as a client sends it. `first` is the first byte: FIN, reserved bits and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..=0xffff => {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 0x7f);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

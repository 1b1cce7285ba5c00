//! A WebSocket client that needs only a socket and a buffer, so that a test can have thousands of clients. Its waits
//! have no deadline.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub struct Wire {
    socket: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub async fn connect(address: SocketAddr, query: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("the server accepts");
        let mut wire = Self { socket, buffer: BytesMut::new() };
        let handshake = format!(
            "GET /api/ws?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire.socket.write_all(handshake.as_bytes()).await.expect("the connection is open");
        let head = loop {
            if let Some(end) = wire.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break wire.buffer.split_to(end + 4);
            }
            wire.read().await;
        };
        assert!(head.starts_with(b"HTTP/1.1 101"), "{head:?}");
        wire
    }

    async fn read(&mut self) {
        assert!(self.socket.read_buf(&mut self.buffer).await.expect("no reset") > 0, "no close frame at the end");
    }

    /// The next frame: its first byte and its payload.
    pub async fn frame(&mut self) -> (u8, Bytes) {
        loop {
            if let [first, length, rest @ ..] = &self.buffer[..] {
                let (header, length) = match (length, rest) {
                    (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                    (126, _) => (4, usize::MAX),
                    (127, _) => panic!("no frame in these tests has 64 KiB or more"),
                    (short, _) => (2, usize::from(*short)),
                };
                if self.buffer.len() - 2 >= length.saturating_add(header - 2) {
                    let first = *first;
                    self.buffer.advance(header);
                    return (first, self.buffer.split_to(length).freeze());
                }
            }
            self.read().await;
        }
    }

    /// The next frame, which must be a text message of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let (first, payload) = self.frame().await;
        assert_eq!(first, 0x81, "the frame is a text message");
        let message: Value = serde_json::from_slice(&payload).expect("the server sends JSON");
        assert_eq!(message["type"], kind, "{message}");
        message
    }
}

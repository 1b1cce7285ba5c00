//! A WebSocket client: tokio-tungstenite.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::{contract, within};

pub struct Client {
    stream: WebSocketStream<TcpStream>,
    /// The first message of the connection.
    pub ack: Value,
}

impl Client {
    pub async fn connect(address: SocketAddr, query: &str) -> Self {
        let socket = within(TcpStream::connect(address)).await.expect("the server accepts");
        Self::over(socket, address, query).await
    }

    /// Connects over a socket that the test has prepared.
    pub async fn over(socket: TcpStream, address: SocketAddr, query: &str) -> Self {
        Self::attempt(socket, address, query).await.expect("the handshake is accepted")
    }

    /// Connects; returns an error if the server refuses the handshake.
    pub async fn attempt(socket: TcpStream, address: SocketAddr, query: &str) -> Result<Self, Error> {
        let url = format!("ws://{address}/api/ws?{query}");
        let (stream, _) = within(tokio_tungstenite::client_async(url, socket)).await?;
        let mut client = Self { stream, ack: Value::Null };
        client.ack = client.expect("connection_ack").await;
        Ok(client)
    }

    /// The next text message, unparsed.
    pub async fn text(&mut self) -> Utf8Bytes {
        loop {
            match within(self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return text,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected a text message, got {other:?}"),
            }
        }
    }

    /// The next text message, parsed and checked against `docs/api/asyncapi.yaml`.
    pub async fn next(&mut self) -> Value {
        let message = serde_json::from_str(&self.text().await).expect("the server sends JSON");
        contract::message(&message);
        message
    }

    /// The next text message, which must have this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// The next frame of any kind; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<Result<Message, Error>> {
        within(self.stream.next()).await
    }

    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) {
        self.send_frame(Message::Text(text.into())).await;
    }

    pub async fn send_frame(&mut self, message: Message) {
        within(self.stream.send(message)).await.expect("the connection is open");
    }

    /// Sends a `ping` message, and checks that the next message is its `pong`. This proves that the server has handled
    /// everything that the client sent before, and has sent nothing else.
    pub async fn nothing_came(&mut self) {
        self.send(r#"{"type":"ping"}"#).await;
        self.expect("pong").await;
    }

    /// Reads up to the server's close frame, and returns it.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            match self.frame().await {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                other => panic!("expected a close frame, got {other:?}"),
            }
        }
    }

    /// Sends a close frame as a browser does, and waits until the connection ends.
    pub async fn close(mut self) {
        within(self.stream.close(None)).await.expect("the connection is open");
        while let Some(Ok(_)) = self.frame().await {}
    }
}

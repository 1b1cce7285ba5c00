//! An SSE client: the event stream is parsed by the crate eventsource-stream.

use std::pin::Pin;

use eventsource_stream::{Event, EventStream, EventStreamError, Eventsource as _};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{App, contract, within};

type Bytes = Result<Vec<u8>, String>;

pub struct Client {
    events: Pin<Box<EventStream<BoxStream<'static, Bytes>>>>,
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    /// The first message of the stream.
    pub ack: Value,
    /// The `id` that a browser would send as `Last-Event-ID` when it reconnects.
    pub last_id: String,
}

impl Client {
    /// Connects, with a `Last-Event-ID` if there is one.
    pub async fn connect(app: &App, query: &str, last_id: Option<&str>) -> Self {
        match Self::attempt(app, query, last_id).await {
            Ok(client) => client,
            Err(refusal) => panic!("{}: {:?}", refusal.status(), refusal.text().await),
        }
    }

    /// Connects; returns the response as an error if its status is not 200.
    pub async fn attempt(app: &App, query: &str, last_id: Option<&str>) -> Result<Self, reqwest::Response> {
        // Use a new `reqwest::Client`, because a shared one keeps connections open after the response.
        let mut request = reqwest::Client::new().get(app.url(&format!("/api/sse?{query}")));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = within(request.send()).await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status != 200 {
            return Err(response);
        }
        let bytes = response.bytes_stream().map_ok(|bytes| bytes.to_vec()).map_err(|error| error.to_string()).boxed();
        let events = Box::pin(bytes.eventsource());
        let mut client = Self { events, status, headers, ack: Value::Null, last_id: String::new() };
        client.ack = client.expect("connection_ack").await;
        Ok(client)
    }

    /// Connects over a socket that the test has prepared. Uses HTTP/1.0, so that the body is not chunked.
    pub async fn over(mut socket: TcpStream, query: &str) -> Self {
        let request = format!("GET /api/sse?{query} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        within(socket.write_all(request.as_bytes())).await.expect("the connection is open");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(socket.read_u8()).await.expect("a response"));
        }
        assert!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&head));
        let bytes = futures_util::stream::unfold(socket, |mut socket| async move {
            let mut bytes = vec![0; 4096];
            match socket.read(&mut bytes).await {
                Ok(0) => None,
                Ok(read) => {
                    bytes.truncate(read);
                    Some((Ok(bytes), socket))
                }
                Err(error) => Some((Err(error.to_string()), socket)),
            }
        });
        let events = Box::pin(bytes.boxed().eventsource());
        let headers = reqwest::header::HeaderMap::new();
        let mut client = Self { events, status: 200, headers, ack: Value::Null, last_id: String::new() };
        client.ack = client.expect("connection_ack").await;
        client
    }

    /// The next event; `None` at the end of the stream.
    pub async fn event(&mut self) -> Option<Event> {
        match within(self.events.next()).await {
            Some(Ok(event)) => {
                self.last_id.clone_from(&event.id);
                Some(event)
            }
            Some(Err(EventStreamError::Transport(_))) | None => None,
            Some(Err(error)) => panic!("not an event stream: {error}"),
        }
    }

    /// The data of the next event, unparsed.
    pub async fn text(&mut self) -> String {
        let event = self.event().await.expect("the stream has another event");
        assert_eq!(event.event, "message", "the stream has no `event:` lines, so `onmessage` gets every event");
        event.data
    }

    pub async fn next(&mut self) -> Value {
        let message = serde_json::from_str(&self.text().await).expect("the server sends JSON");
        contract::message(&message);
        message
    }

    pub async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }
}

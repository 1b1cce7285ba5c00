//! A GET request with the headers of a browser or a proxy, over a connection of its own.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::contract;
use super::raw::{Raw, Response};

/// Asks, and reads the answer; of an event stream, its head. The connection stays open for as long as the first lives.
/// A WebSocket's handshake is complete; the host is `localhost` where no header says another.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (Raw, Response) {
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head.push_str("Host: localhost\r\n");
    }
    if path.starts_with("/api/ws") {
        head.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        head.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    }
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").expect("writing to memory does not fail");
    }
    head.push_str("\r\n");
    let mut raw = Raw::connect(address).await;
    raw.send(head.as_bytes()).await;
    let response = raw.response().await;
    let is_read = response.header("transfer-encoding").is_empty();
    let (status, headers, body) = (response.status, response.headers(), is_read.then_some(&response.body));
    contract::Response { method: "GET", path, status, headers, body }.check();
    (raw, response)
}

/// The code of a refusal.
pub fn code(response: &Response) -> &str {
    response.body["error"]["code"].as_str().unwrap_or_default()
}

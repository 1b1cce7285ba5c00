//! A GET request with the headers of a browser or a proxy, over a separate connection.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::contract;
use super::raw::{Raw, Response};

/// Sends the request and reads the response; of an event stream, only the head. The connection stays open until the
/// caller drops the returned `Raw`. For `/api/ws`, adds the headers of a WebSocket handshake. Adds `Host: localhost` if
/// `headers` has no `Host`.
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

/// The error code in a response.
pub fn code(response: &Response) -> &str {
    response.body["error"]["code"].as_str().unwrap_or_default()
}

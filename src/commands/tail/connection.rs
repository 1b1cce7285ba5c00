//! Opens a connection to the server. When a connection ends, decides whether to reconnect.

use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request};
use oddswire::close::Close;
use oddswire::log::Since;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use crate::commands::client::{AGENT, RefusedRequest};
use crate::commands::printable;
use crate::commands::settings::Tail;
use crate::dial::{DialError, Dialer, Stream};
use crate::endpoint::Endpoint;

/// The maximum time for the WebSocket handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// An open connection.
pub(super) type Socket = WebSocketStream<Stream>;

/// Why a connection ended, and whether to reconnect.
pub(super) enum TailEnd {
    /// Standard output is closed, so no message can be shown.
    Unread,
    /// A reconnect would fail in the same way.
    Final(String),
    /// The connection broke or could not be opened. The second field is how long to wait before a retry, if the server
    /// asks for a wait.
    Lost(String, Option<Duration>),
    /// A new connection replaces this one.
    Replaced(Box<Socket>),
}

/// The handshake request for the topics in `settings`. Messages begin at `since`.
pub(super) fn request(endpoint: &Endpoint, settings: &Tail, since: Since) -> Request<()> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !settings.topics.is_empty() {
        let topics: Vec<String> = settings.topics.iter().map(ToString::to_string).collect();
        query.append_pair("topics", &topics.join(","));
    }
    match since {
        Since::Now => {}
        Since::Snapshot => _ = query.append_pair("since", "snapshot"),
        Since::Position(position) => _ = query.append_pair("since", &position.to_string()),
    }
    let scheme = if endpoint.is_tls() { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{}?{}", endpoint.authority(), endpoint.path("/api/ws"), query.finish());
    let mut request = url.into_client_request().expect("an endpoint and an encoded query make a URL");
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(token) = &settings.token {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).expect("a token is visible ASCII");
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    request
}

/// Connects to the server, and does the WebSocket handshake.
pub(super) async fn open(dialer: Dialer, request: Request<()>) -> Result<Socket, TailEnd> {
    let stream = dialer.dial().await.map_err(|error| not_dialled(&error))?;
    let handshake = tokio_tungstenite::client_async_with_config(request, stream, Some(limits()));
    let url = dialer.endpoint();
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(answer))) => {
            let (head, body) = answer.into_parts();
            let refusal = RefusedRequest::of(head.status, &head.headers, &body.unwrap_or_default());
            let other = if refusal.code.is_empty() { "; is that an oddswire server?" } else { "" };
            let reason = format!("{url} answered {refusal}{other}");
            if refusal.is_temporary() {
                Err(TailEnd::Lost(reason, refusal.retry_after))
            } else {
                Err(TailEnd::Final(reason))
            }
        }
        Ok(Err(Error::Protocol(ProtocolError::HttparseError(_)))) if !url.is_tls() => {
            Err(not_dialled(&DialError::NotHttp(url.clone())))
        }
        Ok(Err(error)) => Err(TailEnd::Lost(format!("the handshake with {url} failed: {error}"), None)),
        Err(_) => Err(TailEnd::Lost(format!("the handshake with {url} took longer than {HANDSHAKE:?}"), None)),
    }
}

fn not_dialled(error: &DialError) -> TailEnd {
    if error.is_lasting() { TailEnd::Final(error.to_string()) } else { TailEnd::Lost(error.to_string(), None) }
}

/// Limits the length of a received message: to the maximum of the server's setting `publish-message-bytes`, plus room
/// for the envelope.
fn limits() -> WebSocketConfig {
    const LONGEST: usize = (1 << 30) + (1 << 20);
    WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST))
}

/// Closes a connection that has been replaced. Sends the close frame only if that is possible without waiting.
pub(super) fn leave(mut socket: Socket) {
    let _: Option<Result<(), Error>> = socket.close(None).now_or_never();
}

/// Interprets a close frame. The table of close codes says whether to reconnect. After a code that is not in the table,
/// tail reconnects unless the code is 1000.
pub(super) fn closed(frame: Option<CloseFrame>) -> TailEnd {
    let Some(frame) = frame else { return TailEnd::Lost("the server closed the connection".to_owned(), None) };
    let code = u16::from(frame.code);
    let reason = format!("the server closed the connection with {code}: {}", printable(&frame.reason));
    let row = Close::ALL.iter().map(|close| close.row()).find(|row| row.code == code);
    if row.map_or(code != 1000, |row| row.reconnect) { TailEnd::Lost(reason, None) } else { TailEnd::Final(reason) }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    #[test]
    fn table_of_close_codes_decides_whether_to_reconnect() {
        let reconnects = |code: u16| {
            let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
            matches!(closed(Some(frame)), TailEnd::Lost(..))
        };
        for close in Close::ALL {
            assert_eq!(reconnects(close.row().code), close.row().reconnect, "{close:?}");
        }
        assert!(!reconnects(1000), "a normal end");
        assert!(reconnects(1006) && reconnects(1012), "codes of a proxy");
        assert!(matches!(closed(None), TailEnd::Lost(..)));
    }
}

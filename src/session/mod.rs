//! One WebSocket connection: a reader that handles the client's frames, and a writer that sends the outbox.
//!
//! The reader's task owns the session: it holds the registration with the manager, and waits for the writer to end.
//! Each task ends the other through the outbox. When the reader drops the registration, the writer's queue ends. When
//! the writer ends, the reader sees that the outbox is closed. In both cases the log gets one `ws.disconnect`.

mod inbound;
mod reader;
mod requests;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, debug, info, o, warn};
use tokio::net::TcpStream;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

use self::reader::Reader;
use self::requests::Requests;
use self::writer::{Writer, WriterEnd, Written};
use crate::admission::Admitted;
use crate::auth::{Access, Verifier};
use crate::close::Close;
use crate::manager::{Connect, Connection, ConnectionManager};
use crate::metrics::Transport;
use crate::protocol::{self, UnknownParameter};
use crate::topic::Subscription;

/// The time that a peer has to end the connection after the close frames. After it the server drops the connection.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The limits of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionLimits {
    /// The maximum length of a message from the client, in bytes.
    pub client_message_bytes: usize,
    /// The maximum number of messages per second from the client. A burst may be twice as large.
    pub client_messages_per_second: u32,
    /// The server sends a ping after this time without a byte from the client.
    pub ping_interval: Duration,
    /// The server closes the connection after this time without a byte from the client.
    pub idle_timeout: Duration,
    /// The server closes the connection if the client takes no byte for this time.
    pub write_timeout: Duration,
}

/// A connection after its upgrade to WebSocket.
#[derive(Debug)]
pub(crate) struct Session {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes that came right after the handshake.
    pub early: Vec<u8>,
    /// The client's rights and request, from the handshake.
    pub wanted: Wanted,
}

/// The client's place among the connections, its rights and its request.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The client's place among the connections.
    pub admitted: Admitted,
    /// The subscriptions that the client's token allows.
    pub access: Access,
    /// Checks tokens that the client sends later.
    pub verifier: Option<Arc<Verifier>>,
    /// The client's request to the manager.
    pub connect: Connect,
    /// Requested subscriptions whose topics are not configured.
    pub unknown: Vec<Subscription>,
    /// The unknown parameters of the client's query.
    pub unknown_parameters: Vec<UnknownParameter>,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The peer sent a close frame, with this code if it has one.
    Peer(Option<u16>),
    /// The connection ended without a close frame.
    Eof,
    /// The socket failed with this error.
    Broken(std::io::Error),
    /// The server closed, for this reason.
    Closed(Close),
    /// The writer's task panicked.
    Panicked,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(Some(code @ (1000 | 1001))) => write!(f, "peer_closed_{code}"),
            // Clients may send any other code. With these codes as labels, the number of metric series would have no
            // limit.
            Self::Peer(Some(_)) => f.write_str("peer_closed_other"),
            Self::Peer(None) => f.write_str("peer_closed"),
            Self::Eof => f.write_str("eof"),
            Self::Broken(_) => f.write_str("reset"),
            Self::Closed(close) => f.write_str(close.row().label),
            Self::Panicked => f.write_str("panic"),
        }
    }
}

impl Session {
    /// Registers the connection and starts its two tasks.
    pub(crate) fn start(
        self,
        manager: &ConnectionManager,
        limits: SessionLimits,
        tasks: &TaskTracker,
        logger: &Logger,
    ) {
        let Self { stream, early, wanted } = self;
        let Wanted { admitted, access, verifier, connect, unknown, unknown_parameters } = wanted;
        let (read_half, write_half) = stream.into_split();
        let conflate = connect.conflate;
        let topics = connect.shown(manager.topics());
        let connect_peer = connect.peer.clone();
        let tracked = manager.metrics().connected(Transport::websocket);
        let (connection, receiver) = manager.connect(connect);
        let logger = logger.new(o!("connection" => connection.id()));
        info!(logger, "ws.connect"; "topics" => topics, "total_connections" => connection.total(),
            "peer" => connect_peer);
        if !unknown_parameters.is_empty() {
            warn!(logger, "ws.unknown_parameter"; "parameters" => protocol::names(&unknown_parameters));
        }
        connection.tell_unknown(&unknown, &unknown_parameters);
        let refills = (manager.clone(), connection.id());
        let mut writer = Writer::new(write_half, receiver, refills, conflate, limits.write_timeout);
        // The future of an async block stores its captured variables once. An async function would store them twice.
        let writer = tasks.spawn(async move {
            writer.run().await;
            writer.into_written()
        });
        let requests = Requests::new(access, verifier, limits.client_messages_per_second);
        let mut reader = Reader::new(read_half, early, limits, requests, logger);
        let started = Instant::now();
        tasks.spawn(async move {
            let seen = reader.run(&connection).await;
            // Box the future of `finish`, because it runs only at the end. Unboxed it would make every idle task
            // larger.
            Box::pin(finish(seen, reader, connection, writer, started)).await;
            drop((admitted, tracked));
        });
    }
}

/// Ends the registration, lets the writer send the rest of the outbox, and waits until the peer ends the connection.
/// A close with unread input would cause a reset, which can overtake the close frame (RFC 6455, section 7.1.1).
async fn finish(
    seen: Option<End>,
    reader: Reader,
    connection: Connection,
    writer: JoinHandle<Written>,
    started: Instant,
) {
    let manager = connection.manager().clone();
    drop(connection);
    // The writer ends by itself: after it has written the rest of the outbox, after an error, or after the write
    // timeout.
    let (end, written) = outcome(seen, writer.await);
    let logger = reader.logger();
    if let End::Broken(error) = &end {
        debug!(logger, "ws.broken"; "error" => %error);
    }
    manager.metrics().disconnected(Transport::websocket, &end.to_string());
    info!(logger, "ws.disconnect"; "total_connections" => manager.active_count(), "reason" => %end,
        "duration" => started.elapsed().as_secs_f64(),
        "messages" => written.messages, "bytes" => written.bytes);
    if matches!(end, End::Peer(_) | End::Closed(_)) && !matches!(written.end, WriterEnd::Stalled) {
        // After the grace period the server drops a connection that is still open.
        let _ = tokio::time::timeout(CLOSE_GRACE, reader.discard()).await;
    }
}

/// Why the session ended, from what the two tasks report.
fn outcome(seen: Option<End>, written: Result<Written, JoinError>) -> (End, Written) {
    let panicked = written.as_ref().is_err_and(JoinError::is_panic);
    let written = written.unwrap_or_default();
    let end = match (&written.end, seen) {
        _ if panicked => End::Panicked,
        (WriterEnd::Stalled, _) => End::Closed(Close::Stalled),
        (_, Some(seen)) => seen,
        (WriterEnd::Closed(close), None) => End::Closed(*close),
        (WriterEnd::Failed(kind), None) => End::Broken((*kind).into()),
        (WriterEnd::Drained, None) => End::Eof,
    };
    (end, written)
}

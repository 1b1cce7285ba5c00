//! One WebSocket connection: a reader that speaks the protocol and a writer that moves bytes.
//!
//! The reader's task owns the session: it holds the registration, starts the writer, and waits for its end. Each task
//! ends the other through the outbox. When the reader drops the registration, the writer's queue ends. When the writer
//! ends, the reader sees that the outbox is closed. Both ways lead to one `ws.disconnect` in the log.

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

/// A peer has this long to end the connection after the close frames. Then the server drops it.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// A session's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionLimits {
    /// Longest message a client may send.
    pub client_message_bytes: usize,
    /// Messages a second that a client may send, with bursts of twice as many.
    pub client_messages_per_second: u32,
    /// A ping is sent after this long without inbound bytes.
    pub ping_interval: Duration,
    /// The connection is closed after this long without inbound bytes.
    pub idle_timeout: Duration,
    /// The connection is closed when the peer takes no byte for this long.
    pub write_timeout: Duration,
}

/// A connection after its upgrade to WebSocket.
#[derive(Debug)]
pub(crate) struct Session {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes that came right after the handshake.
    pub early: Vec<u8>,
    /// What the handshake asked for.
    pub wanted: Wanted,
}

/// The client: its place, its rights and its request.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Its place among the connections.
    pub admitted: Admitted,
    /// The subscriptions that its token allows.
    pub access: Access,
    /// Checks tokens that the client sends later.
    pub verifier: Option<Arc<Verifier>>,
    /// What to register it for.
    pub connect: Connect,
    /// Requested subscriptions whose topics are not configured.
    pub unknown: Vec<Subscription>,
    /// Parameters of its query that are not known.
    pub unknown_parameters: Vec<UnknownParameter>,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The peer closed, with this code.
    Peer(Option<u16>),
    /// The peer went away without a close frame.
    Eof,
    /// The connection broke.
    Broken(std::io::Error),
    /// The server closed.
    Closed(Close),
    /// The writer's task panicked.
    Panicked,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(Some(code @ (1000 | 1001))) => write!(f, "peer_closed_{code}"),
            // Clients choose other codes freely. As labels they would make the number of series unbounded.
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
        requests::tell_unknown(&unknown, &connection);
        if !unknown_parameters.is_empty() {
            warn!(logger, "ws.unknown_parameter"; "parameters" => protocol::names(&unknown_parameters));
            for unknown in &unknown_parameters {
                connection.tell(protocol::unknown_parameter(unknown));
            }
        }
        let refills = (manager.clone(), connection.id());
        let mut writer = Writer::new(write_half, receiver, refills, conflate, limits.write_timeout);
        // An async block stores its captures once. An async function would store its arguments twice.
        let writer = tasks.spawn(async move {
            writer.run().await;
            writer.into_written()
        });
        let requests = Requests::new(access, verifier, limits.client_messages_per_second);
        let mut reader = Reader::new(read_half, early, limits, requests, logger);
        let started = Instant::now();
        tasks.spawn(async move {
            let seen = reader.run(&connection).await;
            // Boxed, because it runs once, at the end. Unboxed it would make every idle task larger.
            Box::pin(finish(seen, reader, connection, writer, started)).await;
            drop((admitted, tracked));
        });
    }
}

/// Disconnects, lets the writer send the rest, and waits until the peer ends the connection. Closing with unread input
/// would cause a reset, which can overtake the close frame (RFC 6455, section 7.1.1).
async fn finish(
    seen: Option<End>,
    reader: Reader,
    connection: Connection,
    writer: JoinHandle<Written>,
    started: Instant,
) {
    let manager = connection.manager().clone();
    drop(connection);
    // The writer ends by itself: after it has written the rest, after an error, or after the write timeout.
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

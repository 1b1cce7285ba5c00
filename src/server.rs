//! Puts the parts together: binds, accepts, and drains.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slog::{Logger, info, warn};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::close::Close;
use crate::config::Config;
use crate::connection::{self, Options};
use crate::engine::{Engine, Memory};
use crate::log::Log;
use crate::manager::ConnectionManager;
use crate::routes::{self, App};

/// Connections that the kernel may hold for us: with the usual 128, a burst of 200 concurrent connects overflowed the
/// queue, and each connect that was dropped cost a retransmit of a second (measured: 4.6k instead of 17k and more a second).
const LISTEN_BACKLOG: u32 = 4096;
/// How long accepting waits after an error that only time heals, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A server that listens, and serves once it runs.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
}

impl Server {
    /// Binds the address. Needs a tokio runtime.
    pub fn bind(config: Config, logger: Logger) -> io::Result<Self> {
        let socket = if config.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(config.listen)?;
        let listener = socket.listen(LISTEN_BACKLOG)?;
        let address = listener.local_addr()?;

        let log = Log::new(new_epoch(), &config.topics, config.log_limits());
        let manager = ConnectionManager::new(config.topics.clone(), log, config.outbox_bytes, logger.clone());
        let engine: Arc<dyn Engine> = Arc::new(Memory::new(manager.clone()));
        let app = App {
            config: Arc::new(config),
            manager,
            engine,
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            logger,
        };
        Ok(Self { listener, address, app })
    }

    /// Where it listens: the port that the system chose where the configuration says 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its connections.
    #[must_use]
    pub fn manager(&self) -> &ConnectionManager {
        &self.app.manager
    }

    /// Serves until `shutdown` is done, then drains: stops accepting, closes sessions with 1001, ends event streams,
    /// finishes publishes. Returns whether all connections ended within `drain-timeout`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> bool {
        let Self { listener, address, app } = self;
        info!(app.logger, "server.listening"; "address" => %address, "version" => env!("CARGO_PKG_VERSION"),
            "publishing" => app.config.publish_token.is_some());
        let maintenance = app.tasks.spawn(maintain(app.clone()));
        tokio::select! {
            () = accept(&listener, &app) => {}
            () = shutdown => {}
        }
        drop(listener);
        let drained = drain(&app).await;
        maintenance.abort();
        drained
    }
}

/// The engine's own work, until the server drains.
async fn maintain(app: App) {
    tokio::select! {
        () = app.engine.maintain() => {}
        () = app.draining.cancelled() => {}
    }
}

async fn accept(listener: &TcpListener, app: &App) {
    let routes = routes::all(app);
    let options = Options { header_timeout: app.config.header_timeout, write_timeout: app.config.write_timeout };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    // The peer is gone already.
                    slog::debug!(app.logger, "http.broken"; "peer" => %peer, "error" => %error);
                    continue;
                }
                let (routes, options) = (routes.clone(), options.clone());
                let (draining, logger) = (app.draining.clone(), app.logger.clone());
                app.tasks.spawn(connection::serve(stream, peer, routes, options, draining, logger));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(app.logger, "server.accept_failed"; "error" => %error);
                // Nothing announces that a file descriptor is free again, and asking at once would spin.
                let _ = tokio::time::timeout(ACCEPT_RETRY, std::future::pending::<TcpStream>()).await;
            }
        }
    }
}

/// The connection was gone before it was accepted: the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn drain(app: &App) -> bool {
    app.draining.cancel();
    info!(app.logger, "server.draining"; "connections" => app.manager.active_count());
    app.manager.close_all(Close::Draining);
    app.tasks.close();
    let drained = tokio::time::timeout(app.config.drain_timeout, app.tasks.wait()).await.is_ok();
    if drained {
        info!(app.logger, "server.stopped");
    } else {
        warn!(app.logger, "server.stopped"; "connections_cut" => app.tasks.len());
    }
    drained
}

/// The memory engine begins a new sequence at every start.
fn new_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The server: binds its addresses, accepts connections, and drains.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use slog::{Logger, error, info, warn};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::admission::Admission;
use crate::close::Close;
use crate::config::{Config, ConfigError};
use crate::connection::{self, Options, Routes};
use crate::engine::{self, EngineError, Readiness};
use crate::listener::{self, Acceptor};
use crate::manager::ConnectionManager;
use crate::routes::{self, App, PublishRates};

/// Why a server cannot be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The server cannot listen on its public address.
    #[error("cannot listen on {0}; set listen to another address and port")]
    Listen(io::Error),
    /// The server cannot listen on the address of the admin listener.
    #[error("cannot listen on {0}; set admin-listen to another address and port, or to 'off' for none")]
    AdminListen(io::Error),
    /// The storage engine cannot be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file that a setting names became unreadable or invalid after [`Config::check`].
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A server that listens on its addresses. [`Server::run`] makes it answer requests.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<TcpListener>,
    app: App,
}

impl Server {
    /// Checks settings of the storage engine that [`Config::check`] does not check: that this build has the engine, and
    /// that the engine can use the broker's URL. [`bind`](Self::bind) checks the same.
    pub fn check(config: &Config) -> Result<(), StartError> {
        Ok(engine::check(config)?)
    }

    /// Binds the addresses and opens the storage engine. Needs a tokio runtime.
    ///
    /// Installs the cryptography for the crate `jsonwebtoken` in this process, unless the program has already installed
    /// one. This one only verifies. If your program signs tokens with `jsonwebtoken`, call `install_default` of its
    /// `CryptoProvider` first.
    pub fn bind(config: Config, logger: Logger) -> Result<Self, StartError> {
        let listener = listener::bind(config.listen, config.write_timeout).map_err(StartError::Listen)?;
        let address = listener.local_addr().map_err(StartError::Listen)?;
        let admin = config.admin_listen.map(|address| listener::bind(address, config.write_timeout)).transpose();
        let admin = admin.map_err(StartError::AdminListen)?;

        let (manager, engine) = engine::open(&config, &logger)?;
        let publishers = config.publishers()?;
        let verifier = config.verifier()?;
        let app = App {
            publishers: Arc::new(RwLock::new(Arc::new(publishers))),
            publish_rates: PublishRates::default(),
            verifier: verifier.map(Arc::new),
            admission: Admission::new(config.max_connections, config.max_connections_per_ip),
            config: Arc::new(config),
            manager,
            engine,
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            logger,
        };
        Ok(Self { listener, address, admin, app })
    }

    /// The address that the server listens on. If the configured port is 0, the address has the port that the system
    /// chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin listener, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The manager of the server's connections.
    #[must_use]
    pub fn manager(&self) -> &ConnectionManager {
        &self.app.manager
    }

    /// Serves until `shutdown` completes, then drains: closes WebSockets with code 1001, ends event streams, finishes
    /// publishes, and stops accepting connections. Returns whether all connections ended within `drain-timeout`.
    ///
    /// If the engine ends by itself, which only a bug can cause, the server also drains, and returns `false`. Without
    /// an engine the server would accept clients and deliver no messages.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> bool {
        let routes = routes::all(&self.app);
        self.serve(routes, shutdown).await
    }

    /// Serves like [`run`](Self::run), but tries the caller's routes `own` first. The server's routes answer the
    /// requests that `own` rejects.
    pub async fn run_with(self, own: BoxedFilter<(Response,)>, shutdown: impl Future<Output = ()>) -> bool {
        let routes = routes::own(own).or(routes::all(&self.app)).unify();
        self.serve(routes, shutdown).await
    }

    async fn serve(self, routes: impl Routes, shutdown: impl Future<Output = ()>) -> bool {
        let admin_address = self.admin_addr();
        let Self { listener, address, admin, app } = self;
        info!(app.logger, "server.listening"; "address" => %address, "version" => env!("CARGO_PKG_VERSION"),
            "publishing" => !app.publishers().is_empty(),
            "admin" => admin_address.map(|address| address.to_string()));
        // The manager's waves and the engine run in separate tasks, so that neither delays the other.
        let (manager, engine) = (app.manager.clone(), Arc::clone(&app.engine));
        app.tasks.spawn(app.draining.clone().run_until_cancelled_owned(async move { manager.run_waves().await }));
        // The engine runs until the server has answered the last request, because a request may publish messages.
        let mut upkeep = JoinSet::new();
        upkeep.spawn(async move { engine.run().await });
        let mut accepting = vec![app.tasks.spawn(accept(listener, routes, app.clone()))];
        if let Some(admin) = admin {
            accepting.push(app.tasks.spawn(accept(admin, routes::admin(&app), app.clone())));
        }
        let broken = tokio::select! {
            () = shutdown => false,
            ended = upkeep.join_next() => {
                let why = ended.and_then(Result::err).map(|error| error.to_string());
                error!(app.logger, "engine.ended"; "error" => why);
                true
            }
        };
        let drained = drain(&app, accepting).await;
        upkeep.shutdown().await;
        drained && !broken
    }

    /// Returns a function that says why the engine is still starting, or `None` once the server can answer requests.
    pub fn starting(&self) -> impl Fn() -> Option<String> + Send + use<> {
        let engine = Arc::clone(&self.app.engine);
        move || match engine.readiness() {
            Readiness::Starting(reason) => Some(reason),
            Readiness::Ready | Readiness::Degraded(_) => None,
        }
    }

    /// Returns a function for SIGHUP. It reads the publishers' tokens again. If reading fails, the old tokens stay
    /// valid.
    pub fn reloader(&self) -> impl Fn() + Send + use<> {
        let app = self.app.clone();
        move || match app.config.publishers() {
            Ok(publishers) => {
                *app.publishers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(publishers);
                info!(app.logger, "config.reloaded");
            }
            Err(error) => warn!(app.logger, "config.reload_failed"; "error" => %error),
        }
    }
}

async fn accept(listener: TcpListener, routes: impl Routes, app: App) {
    let options = Options {
        header_timeout: app.config.header_timeout,
        header_bytes: app.config.header_bytes,
        write_timeout: app.config.write_timeout,
    };
    let mut acceptor = Acceptor::new(listener, Arc::clone(app.manager.metrics()), app.logger.clone());
    loop {
        let (stream, peer) = acceptor.accept().await;
        if let Err(error) = stream.set_nodelay(true) {
            // The call fails if the peer has closed the connection already.
            slog::debug!(app.logger, "http.broken"; "peer" => %peer, "error" => %error);
            continue;
        }
        let (routes, options) = (routes.clone(), options.clone());
        let (draining, logger) = (app.draining.clone(), app.logger.clone());
        app.tasks.spawn(connection::serve(stream, peer, routes, options, draining, logger));
    }
}

/// Refuses new clients and closes the connections one after the other. Then waits until all connections have ended, at
/// most until `drain-timeout`.
async fn drain(app: &App, accepting: Vec<JoinHandle<()>>) -> bool {
    let deadline = Instant::now() + app.config.drain_timeout;
    app.draining.cancel();
    let turns = app.manager.announce_drain(app.config.drain_spread.min(app.config.drain_timeout / 2));
    info!(app.logger, "server.draining"; "connections" => turns.len());
    let began = Instant::now();
    for (after, connection) in turns {
        tokio::time::sleep_until(began + after).await;
        app.manager.close(connection, Close::Draining);
    }
    app.manager.close_all(Close::Draining);
    for listener in accepting {
        listener.abort();
    }
    app.tasks.close();
    let drained = tokio::time::timeout_at(deadline, app.tasks.wait()).await.is_ok();
    if drained {
        info!(app.logger, "server.stopped");
    } else {
        warn!(app.logger, "server.stopped"; "connections_cut" => app.tasks.len());
    }
    drained
}

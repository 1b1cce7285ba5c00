//! Storage engines: they order messages and keep them. The rest of the server uses them only through [`Engine`].
//!
//! To add an engine, write a module and add an arm to [`open`].
//!
//! - `memory`: one process. A restart loses everything.
//! - `journal`: one process with a file. A restart loses nothing.
//! - `redis`: many nodes that share one broker.
//! - `idempotency`: the answers to requests with an `Idempotency-Key`.

mod idempotency;
#[cfg(feature = "journal")]
mod journal;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use slog::Logger;
use thiserror::Error;

pub use self::idempotency::{IdempotencyKey, MAX_KEY_BYTES as MAX_IDEMPOTENCY_KEY_BYTES};
#[cfg(feature = "journal")]
pub use self::journal::Journal;
pub use self::memory::Memory;
#[cfg(feature = "redis")]
pub use self::redis::{BrokerUrlError, Redis};
use crate::config::{Config, EngineKind};
use crate::log::{self, Log, StateFull};
use crate::manager::{self, ConnectionManager, Published};
use crate::message::{Draft, Frames, Position, Timestamp};
use crate::protocol;

/// The interval at which an engine deletes expired keys, and so the maximum delay of a deletion.
const EXPIRY_RESOLUTION: Duration = Duration::from_millis(250);
/// The maximum number of expired keys that one step deletes. Other tasks can run between two steps.
const EXPIRED_AT_ONCE: usize = 256;

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// A topic would exceed its maximum number of keys. No message of the batch was accepted.
    #[error(transparent)]
    StateFull(#[from] StateFull),
    /// The `Idempotency-Key` was used for another body. No message of the batch was accepted.
    #[error(
        "this Idempotency-Key was used for another body within the last 5 minutes: use a new key for a new request"
    )]
    KeyReused,
    /// The storage cannot be reached or written. No message of the batch was accepted.
    #[error("no message was accepted: {0}; try again")]
    Unavailable(String),
    /// The storage failed before it confirmed the batch, so the batch may or may not be stored.
    #[error(
        "it is unknown whether the messages were accepted: {0}; \
         retry with the same Idempotency-Key, because another retry may deliver them twice"
    )]
    Unknown(String),
}

/// Whether an engine can serve clients and accept batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The engine accepts batches, and clients get new messages.
    Ready,
    /// Clients get the state and history that the node has, but no new messages. The string says why.
    Degraded(String),
    /// The node has no log to serve yet. The string says why.
    Starting(String),
}

/// A message to every connection. The server does not store it.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// The envelope's `type`.
    pub kind: String,
    /// The envelope's `data`.
    pub data: Box<RawValue>,
    /// The envelope's `timestamp`. All nodes use the same one, so that they send the same text.
    pub at: Timestamp,
}

impl Broadcast {
    /// The encoded envelope.
    #[must_use]
    pub fn frames(&self) -> Frames {
        protocol::broadcast(&self.kind, &self.data, self.at)
    }
}

/// Orders batches, keeps them, and delivers them through the manager in that order.
pub trait Engine: Send + Sync {
    /// The stored answer to an earlier request with this key. The caller uses it to answer a retry without checking the
    /// messages again.
    fn answered(&self, key: &IdempotencyKey) -> BoxFuture<'_, Result<Option<Published>, PublishError>>;

    /// Accepts the whole batch or refuses the whole batch. When this returns, reads on this node see the batch. A retry
    /// with the same key gets the answer to the first request, and its messages are not stored again.
    fn publish(&self, batch: Vec<Draft>, key: Option<IdempotencyKey>)
    -> BoxFuture<'_, Result<Published, PublishError>>;

    /// Sends a message to every connection of every node, without storing it. Returns the number of this node's
    /// connections whose outbox had room for the message.
    fn broadcast(&self, broadcast: Broadcast) -> BoxFuture<'_, Result<usize, PublishError>>;

    /// Does the background work, such as deleting expired keys. The caller starts this future before the first request,
    /// and drops it after the last answer.
    fn run(&self) -> BoxFuture<'_, ()>;

    /// Whether the engine has a log to serve, and whether it accepts batches.
    fn readiness(&self) -> Readiness;

    /// Waits until this node has delivered the messages up to a position that a client got from another node. Gives up
    /// after a short time.
    fn reach(&self, _: Position) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// Why an engine cannot start.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct EngineError(pub(crate) String);

#[cfg(not(all(feature = "journal", feature = "redis")))]
impl EngineError {
    fn not_built(engine: EngineKind) -> Self {
        let name = format!("{engine:?}").to_lowercase();
        Self(format!("invalid engine '{name}': this program was built without it; build with --features {name}"))
    }
}

#[cfg(feature = "redis")]
impl From<BrokerUrlError> for EngineError {
    fn from(error: BrokerUrlError) -> Self {
        Self(error.to_string())
    }
}

/// Checks what `Config` does not check: that this program was built with the engine, and that the broker's URL is
/// valid.
pub fn check(config: &Config) -> Result<(), EngineError> {
    match config.engine {
        EngineKind::Memory => Ok(()),
        #[cfg(feature = "journal")]
        EngineKind::Journal => Ok(()),
        #[cfg(feature = "redis")]
        EngineKind::Redis => {
            let (url, _) = config.broker().map_err(|error| EngineError(error.to_string()))?;
            Redis::check(&url).map_err(|error| match &config.redis_url_file {
                Some(path) => EngineError(format!("redis-url-file '{}': {error}", path.display())),
                None => error.into(),
            })
        }
        #[cfg(not(all(feature = "journal", feature = "redis")))]
        missing => Err(EngineError::not_built(missing)),
    }
}

/// Opens the engine that the settings name. Also returns the manager through which the engine delivers messages.
pub fn open(config: &Config, logger: &Logger) -> Result<(ConnectionManager, Arc<dyn Engine>), EngineError> {
    let manager = |log| ConnectionManager::new(config.topics.clone(), log, manager_limits(config), logger.clone());
    Ok(match config.engine {
        EngineKind::Memory => {
            let manager = manager(Log::new(new_epoch(), &config.topics, log_limits(config)));
            (manager.clone(), Arc::new(Memory::new(manager)))
        }
        #[cfg(feature = "journal")]
        EngineKind::Journal => {
            let (journal, manager) = Journal::open(config, logger, manager)?;
            (manager, Arc::new(journal))
        }
        #[cfg(feature = "redis")]
        EngineKind::Redis => {
            // This log is empty. The engine replaces it with the broker's log before the server serves clients from it.
            let manager = manager(Log::new(0, &config.topics, log_limits(config)));
            let (url, root_certificates) = config.broker().map_err(|error| EngineError(error.to_string()))?;
            let namespace = &config.redis_namespace;
            let settings = redis::Settings { url: &url, root_certificates, namespace, limits: log_limits(config) };
            (manager.clone(), Arc::new(Redis::new(settings, manager, logger.clone())?))
        }
        #[cfg(not(all(feature = "journal", feature = "redis")))]
        missing => return Err(EngineError::not_built(missing)),
    })
}

/// The epoch of a new sequence: the present time in Unix milliseconds.
fn new_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn log_limits(config: &Config) -> log::LogLimits {
    log::LogLimits {
        history_messages: config.history_messages,
        history_bytes: config.history_bytes,
        history_age: config.history_age,
        state_keys: config.state_keys,
        tombstone_age: config.tombstone_age,
        suppress_unchanged: config.suppress_unchanged,
    }
}

fn manager_limits(config: &Config) -> manager::ManagerLimits {
    manager::ManagerLimits {
        outbox_bytes: config.outbox_bytes,
        memory_budget: config.memory_budget,
        subscriptions: config.subscriptions_per_connection,
    }
}

//! The engine: who orders and keeps messages. Everything above it only knows this trait.
//!
//! An engine is a file, and a line in [`open`].
//!
//! - `memory`: one process; a restart forgets.
//! - `journal`: one process, and a file that outlives it.
//! - `redis`: many nodes on one broker.
//! - `idempotency`: what was answered to requests with an `Idempotency-Key`.

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

/// How late the deletion of an expired key may be told.
const EXPIRY_RESOLUTION: Duration = Duration::from_millis(250);
/// Keys that expire in one go: others have their turn in between.
const EXPIRED_AT_ONCE: usize = 256;

/// Why a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// A topic would hold too many keys. Nothing of the batch was taken.
    #[error(transparent)]
    StateFull(#[from] StateFull),
    /// The `Idempotency-Key` was used for another body. Nothing of the batch was taken.
    #[error(
        "this Idempotency-Key was used for another body within the last 5 minutes: use a new key for a new request"
    )]
    KeyReused,
    /// What keeps the messages cannot be reached or written. Nothing of the batch was taken.
    #[error("nothing was taken: {0}; try again")]
    Unavailable(String),
    /// The connection to what keeps the messages broke before it answered.
    #[error("it is not known whether this was taken: {0}; try again with an Idempotency-Key, and it is taken once")]
    Unknown(String),
}

/// How an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It takes batches, and clients get what is new.
    Ready,
    /// Clients have what there was; nothing new can be taken or arrive. Says why.
    Degraded(String),
    /// It has nothing to serve yet. Says what it waits for.
    Starting(String),
}

/// A message to every connection, that is kept nowhere.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// The envelope's `type`.
    pub kind: String,
    /// The envelope's `data`.
    pub data: Box<RawValue>,
    /// The envelope's `timestamp`: when it was taken, so that it is the same text on every node.
    pub at: Timestamp,
}

impl Broadcast {
    /// What goes to a client.
    #[must_use]
    pub fn frames(&self) -> Frames {
        protocol::broadcast(&self.kind, &self.data, self.at)
    }
}

/// Orders batches, keeps them, and delivers them through the manager in that order.
pub trait Engine: Send + Sync {
    /// The answer that a request with this key got already: a retry gets it, whatever has become of its contents since.
    fn answered(&self, key: &IdempotencyKey) -> BoxFuture<'_, Result<Option<Published>, PublishError>>;

    /// Takes a batch whole or refuses it whole. With a key, a repeated batch gets the first answer and is not taken again.
    /// Once it is answered, this node's readers see it.
    fn publish(&self, batch: Vec<Draft>, key: Option<IdempotencyKey>)
    -> BoxFuture<'_, Result<Published, PublishError>>;

    /// Sends a message to every connection of every node; it is kept nowhere. Returns for how many of this node's there was
    /// room.
    fn broadcast(&self, broadcast: Broadcast) -> BoxFuture<'_, Result<usize, PublishError>>;

    /// What must go on beside publishing, such as expiring keys. Runs until it is dropped: from before the first request is
    /// taken until after the last one is answered.
    fn run(&self) -> BoxFuture<'_, ()>;

    /// Whether it has something to serve and takes batches.
    fn readiness(&self) -> Readiness;

    /// Waits, for a moment, until this node has come to a position that a client has from another one.
    fn reach(&self, _: Position) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// Why an engine cannot be started.
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

/// Checks the settings of the engine beyond what `Config` checks: that this build has the engine, and that it can use
/// the broker's URL.
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

/// Opens the engine that the settings name, and the manager that it delivers through.
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
            // No client is served from this log: the broker's messages replace it.
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

/// A sequence that continues no other.
fn new_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn log_limits(config: &Config) -> log::Limits {
    log::Limits {
        history_messages: config.history_messages,
        history_bytes: config.history_bytes,
        history_age: config.history_age,
        state_keys: config.state_keys,
        tombstone_age: config.tombstone_age,
        suppress_unchanged: config.suppress_unchanged,
    }
}

fn manager_limits(config: &Config) -> manager::Limits {
    manager::Limits {
        outbox_bytes: config.outbox_bytes,
        memory_budget: config.memory_budget,
        subscriptions: config.subscriptions_per_connection,
    }
}

//! The engine: who orders and keeps messages. Everything above it only knows this trait.

mod idempotency;
mod memory;

use futures_util::future::BoxFuture;
use thiserror::Error;

pub use self::idempotency::{IdempotencyKey, MAX_KEY_BYTES as MAX_IDEMPOTENCY_KEY_BYTES};
pub use self::memory::Memory;
use crate::log::StateFull;
use crate::manager::Published;
use crate::message::Draft;

/// Why a batch was not taken. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// A topic would hold too many keys.
    #[error(transparent)]
    StateFull(#[from] StateFull),
    /// The `Idempotency-Key` was used for another body.
    #[error(
        "this Idempotency-Key was used for another body within the last 5 minutes: use a new key for a new request"
    )]
    KeyReused,
}

/// Orders batches, keeps them, and delivers them through the manager in that order.
pub trait Engine: Send + Sync {
    /// The answer that a request with this key got already: a retry gets it, whatever has become of its contents since.
    fn answered(&self, key: &IdempotencyKey) -> BoxFuture<'_, Result<Option<Published>, PublishError>>;

    /// Takes a batch whole or refuses it whole. With a key, a repeated batch gets the first answer and is not taken again.
    fn publish(&self, batch: Vec<Draft>, key: Option<IdempotencyKey>)
    -> BoxFuture<'_, Result<Published, PublishError>>;

    /// What must go on beside publishing, such as expiring keys. Runs until it is dropped.
    fn maintain(&self) -> BoxFuture<'_, ()>;

    /// Whether batches are taken; says why not.
    fn ready(&self) -> Result<(), String>;
}

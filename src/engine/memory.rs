//! The engine `memory`, for a single process. Only the manager's log holds the messages, so a restart loses them and
//! begins a new epoch.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::MissedTickBehavior;

use super::idempotency::Answers;
use super::{Broadcast, EXPIRED_AT_ONCE, EXPIRY_RESOLUTION, Engine, IdempotencyKey, PublishError, Readiness};
use crate::manager::{ConnectionManager, Published};
use crate::message::{Draft, Timestamp};

/// Keeps all messages in the manager's log only.
#[derive(Debug)]
pub struct Memory {
    manager: ConnectionManager,
    /// Locked while a batch with an `Idempotency-Key` is published, so that a concurrent retry waits for the first
    /// answer.
    answers: Mutex<Answers>,
}

impl Memory {
    /// An engine that publishes to the manager's log.
    #[must_use]
    pub fn new(manager: ConnectionManager) -> Self {
        Self { manager, answers: Mutex::default() }
    }

    fn publish_once(&self, batch: &[Draft], key: IdempotencyKey) -> Result<Published, PublishError> {
        let now = Timestamp::now();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = answers.find(&key, now)? {
            return Ok(first);
        }
        let published = self.manager.publish(batch)?;
        answers.keep(key, published, now);
        Ok(published)
    }
}

impl Engine for Memory {
    fn answered(&self, key: &IdempotencyKey) -> BoxFuture<'_, Result<Option<Published>, PublishError>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        std::future::ready(answers.find(key, Timestamp::now())).boxed()
    }

    fn publish(
        &self,
        batch: Vec<Draft>,
        key: Option<IdempotencyKey>,
    ) -> BoxFuture<'_, Result<Published, PublishError>> {
        let published = match key {
            None => self.manager.publish(&batch).map_err(PublishError::from),
            Some(key) => self.publish_once(&batch, key),
        };
        async {
            // Let the writers of the connections run, even if a publisher sends its next request right after each
            // answer.
            tokio::task::yield_now().await;
            published
        }
        .boxed()
    }

    fn broadcast(&self, broadcast: Broadcast) -> BoxFuture<'_, Result<usize, PublishError>> {
        std::future::ready(Ok(self.manager.broadcast_all(broadcast.frames()))).boxed()
    }

    fn run(&self) -> BoxFuture<'_, ()> {
        async {
            let mut ticks = tokio::time::interval(EXPIRY_RESOLUTION);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                while self.manager.expire(Timestamp::now(), EXPIRED_AT_ONCE) {
                    // Let other tasks run between two groups of deletions.
                    tokio::task::yield_now().await;
                }
            }
        }
        .boxed()
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }
}

//! The connection manager: who is connected, what they listen to, and the log that they are kept up to date from.
//!
//! Invariants: a message reaches every matching outbox in the order of the log, since both happen under one lock; a
//! connection is either fed, or has a catch-up that begins at the last message it was fed; the manager never waits for
//! a connection and knows nothing of sockets.
//!
//! - `reports`: what it tells of itself; `overview`: when it is asked.
//! - `registry`: the state behind the lock.
//! - `delivery`: from a message to the outboxes, and who is left behind; `refill`: how those catch up.
//! - `due`: writers that are to be woken; `waves`: when they are.
//! - `closing`: how connections are let go.
//! - `sequence`: what an engine that keeps the sequence elsewhere does with the log.
//! - `connection`: what a client wants, and the guard of a registered connection.

mod closing;
mod connection;
mod delivery;
mod due;
#[cfg(test)]
mod model;
mod overview;
mod refill;
mod registry;
mod reports;
mod sequence;
mod waves;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use slog::{Logger, error, info};
use thiserror::Error;
use tokio::sync::Notify;

pub use self::connection::{Connect, Connection};
use self::registry::{Registration, State};
pub use self::reports::{ConnectionFacts, Counts, Load, Overview, Published, TopicCount};
use crate::close::Close;
pub use crate::index::ConnectionId;
use crate::log::{Log, Since, StateFull};
use crate::message::{Draft, Frames, Payload, Timestamp};
use crate::metrics::Metrics;
use crate::outbox::{self, Budget, Outgoing, Receiver};
use crate::protocol::{self, Acknowledgement};
use crate::topic::{Subscription, Topic, Topics};

/// One of so many parts of the budget is freed beyond what has to be, and of what is left to catch-ups one step may take
/// as much.
const BUDGET_PARTS: usize = 8;

/// What holds for every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on their way to one client.
    pub outbox_bytes: usize,
    /// Bytes on their way to all clients together.
    pub memory_budget: usize,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { outbox_bytes: 1 << 20, memory_budget: 1 << 30, subscriptions: 100 }
    }
}

/// A connection would have more subscriptions than it may. Nothing of what it asked for took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("that would be {asked} subscriptions, the limit is {limit} (subscriptions-per-connection): use wider ones")]
pub struct TooManySubscriptions {
    /// How many it would be.
    pub asked: usize,
    /// How many it may have.
    pub limit: usize,
}

#[derive(Debug)]
struct Shared {
    /// Registry, index and log: one lock, so that a position means the same to all of them.
    state: Mutex<State>,
    topics: Topics,
    limits: Limits,
    /// There are writers to be woken with the next wave.
    published: Notify,
    /// What all outboxes hold.
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    logger: Logger,
}

/// Owns who is connected and to what. Cheap to clone; all clones are the same manager.
#[derive(Debug, Clone)]
pub struct ConnectionManager {
    shared: Arc<Shared>,
}

impl ConnectionManager {
    /// A manager without connections over the given log.
    #[must_use]
    pub fn new(topics: Topics, log: Log, limits: Limits, logger: Logger) -> Self {
        info!(logger, "ws_manager_ready"; "topics" => %topics);
        let state = Mutex::new(State::new(log));
        let budget = Arc::new(Budget::new(limits.memory_budget));
        let shared =
            Shared { state, topics, limits, published: Notify::new(), budget, metrics: Arc::default(), logger };
        Self { shared: Arc::new(shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| {
            // A panic while the lock was held is a bug, and some may lack what it was about to deliver. The log has it:
            // they come back for it.
            let state = poisoned.into_inner();
            self.shared.state.clear_poison();
            error!(self.shared.logger, "ws_manager.recovered"; "connections" => state.connections.len());
            for entry in state.connections.values() {
                entry.outbox.close(Close::TryAgain);
            }
            state
        })
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// The configured topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.shared.topics
    }

    /// Registers a connection. `connection_ack` is the first thing in its outbox. Subscriptions to topics that are not
    /// configured are left out. The connection is disconnected when the returned guard is dropped.
    #[must_use]
    pub fn connect(&self, wanted: Connect) -> (Connection, Receiver) {
        let all = || self.topics().iter().cloned().map(Subscription::from).collect();
        let (subscriptions, _) = self.topics().partition(wanted.subscriptions.unwrap_or_else(all));
        let subscriptions: Vec<Subscription> = BTreeSet::from_iter(subscriptions).into_iter().collect();
        let (outbox, receiver) = outbox::channel(self.shared.limits.outbox_bytes, Arc::clone(&self.shared.budget));

        let mut state = self.state();
        let mut id = ConnectionId::random();
        while state.connections.contains_key(&id) {
            id = ConnectionId::random();
        }
        let ack = Acknowledgement {
            topics: &subscriptions,
            connection: id.to_string(),
            position: state.log.position(),
            conflate_ms: wanted.conflate.map_or(0, |window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX)),
            expires_at: wanted.expires.map(|at| at.to_string()),
        };
        let ack = protocol::connection_ack(&ack, wanted.since == Since::Now);
        outbox.push(Outgoing::Control(Arc::new(ack)));
        let registration = Registration {
            subscriptions,
            since: wanted.since,
            conflate: wanted.conflate.is_some(),
            peer: wanted.peer.map(Into::into),
        };
        state.register(id, &outbox, registration);
        if let Some(spread) = state.draining {
            // It was admitted just before the drain began: it is told what the others are, and its moment is now.
            outbox.push(Outgoing::Control(Arc::new(protocol::reconnect(Duration::ZERO, spread))));
            outbox.close(Close::Draining);
        }
        if let Some(close) = state.closing {
            outbox.close(close);
        }
        let total = state.connections.len();
        drop(state);
        (Connection { manager: self.clone(), id, outbox, total }, receiver)
    }

    /// Removes a connection from the registry and every index; `false` where it was gone already.
    pub fn disconnect(&self, id: ConnectionId) -> bool {
        self.state().remove(id)
    }

    /// Adds subscriptions that begin at `since`; returns all current ones, sorted. The client is told them, too.
    pub fn subscribe(
        &self,
        id: ConnectionId,
        add: Vec<Subscription>,
        since: Since,
    ) -> Result<Vec<Subscription>, TooManySubscriptions> {
        let (add, _) = self.topics().partition(add);
        let mut state = self.state();
        let held = state.connections.get(&id).map(|entry| &entry.subscriptions);
        let new: BTreeSet<&Subscription> =
            add.iter().filter(|new| held.is_some_and(|held| held.binary_search(new).is_err())).collect();
        let (asked, limit) = (held.map_or(0, Vec::len) + new.len(), self.shared.limits.subscriptions);
        if asked > limit {
            return Err(TooManySubscriptions { asked, limit });
        }
        Ok(state.subscribe(id, add, since))
    }

    /// A connection's subscriptions, sorted.
    #[must_use]
    pub fn subscriptions(&self, id: ConnectionId) -> Vec<Subscription> {
        self.state().connections.get(&id).map(|entry| entry.subscriptions.clone()).unwrap_or_default()
    }

    /// The most subscriptions that a connection may have.
    #[must_use]
    pub fn subscriptions_limit(&self) -> usize {
        self.shared.limits.subscriptions
    }

    /// Drops subscriptions; returns all current ones, sorted. The client is told them, too.
    pub fn unsubscribe(&self, id: ConnectionId, drop: &[Subscription]) -> Vec<Subscription> {
        self.state().unsubscribe(id, drop)
    }

    /// Publishes a batch: all of it, in order, or nothing.
    pub fn publish(&self, batch: &[Draft]) -> Result<Published, StateFull> {
        let mut state = self.state();
        state.log.check(batch)?;
        let now = Timestamp::now();
        let mut taken: BTreeMap<&Topic, Counts> = BTreeMap::new();
        for draft in batch {
            let counts = taken.entry(&draft.topic).or_default();
            counts.accepted += 1;
            match state.log.append(draft, now) {
                Some(message) => {
                    self.deliver(&mut state, &message);
                    state.due.begin_early(&message);
                }
                None => counts.unchanged += 1,
            }
        }
        let position = state.log.position();
        self.wake(state);
        for (topic, counts) in &taken {
            self.shared.metrics.published(topic, counts.accepted, counts.unchanged);
        }
        let unchanged = taken.values().map(|counts| counts.unchanged).sum();
        Ok(Published { counts: Counts { accepted: batch.len(), unchanged }, position })
    }

    /// Publishes one message to the subscribers of a topic.
    pub fn broadcast(&self, message: Payload, topic: &Topic) -> Result<Published, StateFull> {
        self.publish(&[Draft { topic: topic.clone(), payload: message }])
    }

    /// Sends a message to every connection, whatever its subscriptions; it is kept nowhere. A connection without room
    /// for it is told how many it missed. Returns the number of connections it was put in line for.
    pub fn broadcast_all(&self, message: Frames) -> usize {
        let mut state = self.state();
        let sent = self.put_to_all(&mut state, &Outgoing::Control(Arc::new(message)));
        self.wake(state);
        sent
    }

    /// Publishes the deletions of keys whose time has come, and drops what is too old: at most `limit` keys, for which the
    /// lock is held. Returns whether there are more.
    #[must_use]
    pub fn expire(&self, now: Timestamp, limit: usize) -> bool {
        let mut state = self.state();
        let expired = state.log.tick(now, limit);
        for draft in &expired {
            if let Some(message) = state.log.append(draft, now) {
                self.deliver(&mut state, &message);
            }
        }
        self.wake(state);
        expired.len() == limit
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use slog::{Drain, OwnedKVList, Record};

    use super::*;

    /// A log that panics when a client falls behind: in the middle of a delivery, under the manager's lock.
    struct Faulty;

    impl Drain for Faulty {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
            assert!(!format!("{}", record.msg()).contains("ws.slow"), "a bug");
            Ok(())
        }
    }

    #[test]
    fn a_panic_in_a_delivery_closes_the_connections_so_that_they_come_back_for_it() {
        let topics: Topics = "odds_updates".parse().unwrap();
        let log = Log::new(1, &topics, crate::log::Limits::default());
        let limits = Limits { outbox_bytes: 400, ..Limits::default() };
        let manager = ConnectionManager::new(topics.clone(), log, limits, Logger::root(Faulty.fuse(), slog::o!()));
        let (_connection, mut receiver) = manager.connect(Connect::all());
        let publish = || {
            let data = serde_json::value::to_raw_value(&"x".repeat(100)).unwrap();
            manager.broadcast(Payload::new(data), topics.get("odds_updates").unwrap())
        };
        let panicked = (0..10).any(|_| catch_unwind(AssertUnwindSafe(publish)).is_err());
        assert!(panicked);
        assert_eq!(manager.active_count(), 1, "others go on");
        let last = std::iter::from_fn(|| receiver.try_recv()).last();
        assert!(matches!(last, Some(Outgoing::Close(Close::TryAgain))), "{last:?}");
    }
}

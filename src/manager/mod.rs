//! The connection manager: the connections, their subscriptions, and the log that keeps them up to date.
//!
//! Invariants:
//! - A message is appended to the log and put into every matching outbox under one lock. So every client gets messages
//!   in the order of the log.
//! - A connection is live, or it has a catch-up that begins after the last live message in its outbox.
//! - The manager never waits for a connection, and knows nothing about sockets.
//!
//! Files:
//! - `registry`: the state behind the lock.
//! - `connection`: what a client asks for, and the guard of a registered connection.
//! - `delivery`: puts messages into outboxes; `refill`: the steps of a catch-up.
//! - `due`: writers that have to be woken; `waves`: when they are woken.
//! - `closing`: closes connections.
//! - `sequence`: access to the log for engines that keep the sequence outside of the log.
//! - `overview`: answers questions about connections and topics; `reports`: the types of the answers.

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
use crate::outbox::{self, Budget};
pub use crate::outbox::{Outgoing, Receiver};
use crate::protocol::{self, Acknowledgement};
use crate::topic::{Subscription, Topic, Topics};

/// The number of parts of the memory budget. If the outboxes exceed the budget, the manager frees one part more than
/// necessary. One step of a catch-up may use one such part of the bytes that are left for catch-ups.
const BUDGET_PARTS: usize = 8;

/// Limits of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagerLimits {
    /// The maximum number of bytes on their way to one client.
    pub outbox_bytes: usize,
    /// The maximum number of bytes on their way to all clients together.
    pub memory_budget: usize,
    /// The maximum number of subscriptions of one connection.
    pub subscriptions: usize,
}

impl Default for ManagerLimits {
    fn default() -> Self {
        Self { outbox_bytes: 1 << 20, memory_budget: 1 << 30, subscriptions: 100 }
    }
}

/// A request would give a connection more subscriptions than the limit. The whole request has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this would make {asked} subscriptions, the limit is {limit} (subscriptions-per-connection): use fewer, wider ones"
)]
pub struct TooManySubscriptions {
    /// The number of subscriptions that the connection would have.
    pub asked: usize,
    /// The maximum number of subscriptions that a connection may have.
    pub limit: usize,
}

#[derive(Debug)]
struct Hub {
    /// Registry, index and log. They share one lock, so that a position means the same in all of them.
    state: Mutex<State>,
    topics: Topics,
    limits: ManagerLimits,
    /// Notified when writers have to be woken with the next wave.
    published: Notify,
    /// Counts the bytes in all outboxes.
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    logger: Logger,
}

/// Owns the connections, their subscriptions and the log. Cheap to clone: all clones share one state.
#[derive(Debug, Clone)]
pub struct ConnectionManager {
    shared: Arc<Hub>,
}

impl ConnectionManager {
    /// Creates a manager without connections that delivers from this log.
    #[must_use]
    pub fn new(topics: Topics, log: Log, limits: ManagerLimits, logger: Logger) -> Self {
        info!(logger, "ws_manager_ready"; "topics" => %topics);
        let state = Mutex::new(State::new(log));
        let budget = Arc::new(Budget::new(limits.memory_budget));
        let shared = Hub { state, topics, limits, published: Notify::new(), budget, metrics: Arc::default(), logger };
        Self { shared: Arc::new(shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| {
            // A panic under the lock is a bug, and it may have ended a delivery halfway. The log has the messages. So
            // close every connection, because the clients then reconnect and resume.
            let state = poisoned.into_inner();
            self.shared.state.clear_poison();
            error!(self.shared.logger, "ws_manager.recovered"; "connections" => state.connections.len());
            for entry in state.connections.values() {
                entry.outbox.close(Close::TryAgain);
            }
            state
        })
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// The configured topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.shared.topics
    }

    /// Registers a connection, and puts `connection_ack` into its outbox. Leaves out subscriptions to topics that are
    /// not configured. Dropping the returned guard disconnects the connection.
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
            // The connection was admitted just before the drain began. Send its client the same message as all others,
            // and close the connection at once.
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

    /// Removes a connection from the registry and the index. Returns `false` if the connection was not registered.
    pub fn disconnect(&self, id: ConnectionId) -> bool {
        self.state().remove(id)
    }

    /// Adds subscriptions that begin at `since`. Returns all current subscriptions, sorted, and sends them to the
    /// client.
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

    /// The maximum number of subscriptions that a connection may have.
    #[must_use]
    pub fn subscriptions_limit(&self) -> usize {
        self.shared.limits.subscriptions
    }

    /// Removes subscriptions. Returns all current subscriptions, sorted, and sends them to the client.
    pub fn unsubscribe(&self, id: ConnectionId, drop: &[Subscription]) -> Vec<Subscription> {
        self.state().unsubscribe(id, drop)
    }

    /// Publishes a batch in order. If one message is refused, none is published.
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

    /// Publishes one message to a topic.
    pub fn broadcast(&self, message: Payload, topic: &Topic) -> Result<Published, StateFull> {
        self.publish(&[Draft { topic: topic.clone(), payload: message }])
    }

    /// Sends a message to every connection, whatever its subscriptions. The log does not keep it. A client whose outbox
    /// has no room is told later how many broadcasts it missed. Returns the number of connections that had room.
    pub fn broadcast_all(&self, message: Frames) -> usize {
        let mut state = self.state();
        let sent = self.put_to_all(&mut state, &Outgoing::Control(Arc::new(message)));
        self.wake(state);
        sent
    }

    /// Publishes the deletions of expired keys, and drops messages that are too old. Deletes at most `limit` keys,
    /// because it holds the manager's lock meanwhile. Returns whether more keys may have expired.
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

    /// A logger that panics when a client falls behind. This happens in the middle of a delivery, under the manager's
    /// lock.
    struct PanickingDrain;

    impl Drain for PanickingDrain {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
            assert!(!format!("{}", record.msg()).contains("ws.slow"), "a bug");
            Ok(())
        }
    }

    #[test]
    fn panic_in_a_delivery_closes_every_connection() {
        let topics: Topics = "odds_updates".parse().unwrap();
        let log = Log::new(1, &topics, crate::log::LogLimits::default());
        let limits = ManagerLimits { outbox_bytes: 400, ..ManagerLimits::default() };
        let manager =
            ConnectionManager::new(topics.clone(), log, limits, Logger::root(PanickingDrain.fuse(), slog::o!()));
        let (_connection, mut receiver) = manager.connect(Connect::all());
        let publish = || {
            let data = serde_json::value::to_raw_value(&"x".repeat(100)).unwrap();
            manager.broadcast(Payload::new(data), topics.get("odds_updates").unwrap())
        };
        let panicked = (0..10).any(|_| catch_unwind(AssertUnwindSafe(publish)).is_err());
        assert!(panicked);
        assert_eq!(manager.active_count(), 1, "the manager still works");
        let last = std::iter::from_fn(|| receiver.try_recv()).last();
        assert!(matches!(last, Some(Outgoing::Close(Close::TryAgain))), "{last:?}");
    }
}

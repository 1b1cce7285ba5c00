//! The connection manager: who is connected, what they listen to, and the log that they are kept up to date from.
//!
//! Invariants: a message reaches every matching outbox in the order of the log, since both happen under one lock; a
//! connection is either fed, or has a catch-up that begins at the last message it was fed; the manager never waits for
//! a connection and knows nothing of sockets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use slog::{Logger, error, info};
use thiserror::Error;

use crate::close::Close;
pub use crate::index::ConnectionId;
use crate::index::{Index, topics_of};
use crate::log::{CatchUp, Log, Since, StateFull, StepLimits, Style, TopicStats};
use crate::message::{Draft, Frames, Message, Payload, Position, Timestamp};
use crate::outbox::{self, Full, Outbox, Outgoing, Receiver};
use crate::protocol::{self, Acknowledgement};
use crate::topic::{Subscription, Topic, Topics};

/// Messages handed out in one step of a catch-up.
const STEP_MESSAGES: usize = 256;
/// Bytes after which a step ends, at most: what a session holds of a catch-up beside its outbox.
const STEP_BYTES: usize = 128 << 10;

/// What holds for every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on their way to one client.
    pub outbox_bytes: usize,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { outbox_bytes: 1 << 20, subscriptions: 100 }
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

/// What a new connection wants.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Its subscriptions; `None` is every topic.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Where to begin.
    pub since: Since,
    /// Nothing is fed; every window of this length the latest of each key is sent.
    pub conflate: Option<Duration>,
}

impl Connect {
    /// Its subscriptions, for the log.
    pub(crate) fn shown(&self, all: &Topics) -> String {
        let Some(subscriptions) = &self.subscriptions else { return all.to_string() };
        subscriptions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Every topic, from here on.
    #[must_use]
    pub fn all() -> Self {
        Self { subscriptions: None, since: Since::Now, conflate: None }
    }

    /// These subscriptions, from here on.
    #[must_use]
    pub fn to(subscriptions: Vec<Subscription>) -> Self {
        Self { subscriptions: Some(subscriptions), ..Self::all() }
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Messages that were taken, unchanged ones included.
    pub accepted: usize,
    /// Messages among them that said what their key held already: confirmed, not delivered.
    pub unchanged: usize,
}

/// A batch that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// How many.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where the log stands after it.
    pub position: Position,
}

/// What is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCount {
    /// Connections with at least one subscription to it.
    pub subscribers: usize,
    /// What the log keeps.
    pub kept: TopicStats,
}

/// Connections, topics and position at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Connections.
    pub connections: usize,
    /// What is known of each topic.
    pub topics: BTreeMap<Topic, TopicCount>,
    /// The position of the newest message.
    pub position: Position,
}

#[derive(Debug)]
struct Entry {
    outbox: Outbox,
    /// Sorted, each once: a connection has few.
    subscriptions: Vec<Subscription>,
    feed: Feed,
    conflate: bool,
    /// Whether the client has been told of the catch-up that is under way: it then hears its end, too.
    told: bool,
    /// Whether a refill stands in the outbox: one is enough.
    refill_due: bool,
    broadcasts_skipped: u64,
}

/// Whether a connection is fed as messages come, or catches up.
#[derive(Debug)]
enum Feed {
    Live,
    Behind(Box<CatchUp>),
}

#[derive(Debug)]
struct State {
    connections: HashMap<ConnectionId, Entry>,
    index: Index,
    log: Log,
    /// Set once every connection is to end: later ones end at once.
    closing: Option<Close>,
}

#[derive(Debug)]
struct Shared {
    /// Registry, index and log: one lock, so that a position means the same to all of them.
    state: Mutex<State>,
    topics: Topics,
    limits: Limits,
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
        let state = State { connections: HashMap::new(), index: Index::default(), log, closing: None };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), topics, limits, logger }) }
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
        let (outbox, receiver) = outbox::channel(self.shared.limits.outbox_bytes);

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
        };
        let ack = protocol::connection_ack(&ack, wanted.since == Since::Now);
        outbox.push(Outgoing::Control(Arc::new(ack)));
        state.register(id, &outbox, subscriptions, wanted.since, wanted.conflate.is_some());
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

    /// Closes one connection: it gets what is in its outbox, then the close.
    pub fn close(&self, id: ConnectionId, close: Close) {
        if let Some(entry) = self.state().connections.get(&id) {
            entry.outbox.close(close);
        }
    }

    /// Tells every connection that the server shuts down, and when its own turn to go is: spread evenly over `spread`,
    /// so that the clients do not come back elsewhere all at once. Returns the turns in order; the caller keeps them.
    pub fn announce_drain(&self, spread: Duration) -> Vec<(Duration, ConnectionId)> {
        let state = self.state();
        let mut ids: Vec<ConnectionId> = state.connections.keys().copied().collect();
        fastrand::shuffle(&mut ids);
        let count = u32::try_from(ids.len().max(1)).unwrap_or(u32::MAX);
        let turn = |at: usize| spread * u32::try_from(at).unwrap_or(u32::MAX) / count;
        let turns: Vec<_> = ids.into_iter().enumerate().map(|(at, id)| (turn(at), id)).collect();
        for (after, id) in &turns {
            let frames = protocol::reconnect(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            state.connections[id].outbox.push(Outgoing::Control(Arc::new(frames)));
        }
        turns
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
        let mut unchanged = 0;
        for draft in batch {
            match state.log.append(draft, now) {
                Some(message) => self.deliver(&mut state, &message),
                None => unchanged += 1,
            }
        }
        let counts = Counts { accepted: batch.len(), unchanged };
        Ok(Published { counts, position: state.log.position() })
    }

    /// Publishes one message to the subscribers of a topic.
    pub fn broadcast(&self, message: Payload, topic: &Topic) -> Result<Published, StateFull> {
        self.publish(&[Draft { topic: topic.clone(), payload: message }])
    }

    /// Sends a message to every connection, whatever its subscriptions; it is kept nowhere. A connection without room
    /// for it is told how many it missed. Returns the number of connections it was put in line for.
    pub fn broadcast_all(&self, message: Frames) -> usize {
        let item = Outgoing::Control(Arc::new(message));
        let mut state = self.state();
        let State { connections, log, .. } = &mut *state;
        let mut sent = 0;
        for (id, entry) in connections {
            match entry.outbox.offer(item.clone()) {
                Ok(()) => sent += 1,
                Err(full) => {
                    entry.broadcasts_skipped += 1;
                    self.fall_behind(*id, entry, log, log.position().offset, full);
                }
            }
        }
        sent
    }

    /// Puts a message into every matching outbox. A connection whose outbox is full is left behind, nobody else notices.
    fn deliver(&self, state: &mut State, message: &Arc<Message>) {
        let State { connections, index, log, .. } = state;
        index.matching(message, |id, outbox| {
            if !outbox.is_fed() {
                return;
            }
            if let Err(full) = outbox.offer(Outgoing::Message(Arc::clone(message)))
                && let Some(entry) = connections.get_mut(&id)
            {
                self.fall_behind(id, entry, log, message.offset() - 1, full);
            }
        });
    }

    /// Stops feeding a connection that has everything up to the offset; its writer will ask for the rest.
    fn fall_behind(&self, id: ConnectionId, entry: &mut Entry, log: &Log, offset: u64, full: Full) {
        if !matches!(entry.feed, Feed::Live) {
            return;
        }
        info!(self.shared.logger, "ws.slow"; "connection" => %id, "outbox_bytes" => full.queued, "offset" => offset);
        let mut catch_up = CatchUp::new(Style::Slow);
        for subscription in &entry.subscriptions {
            catch_up.add_after(subscription.clone(), offset, true, log);
        }
        entry.leave_behind(catch_up);
    }

    /// The next step of a connection's catch-up, put into its outbox: called when its writer comes to an
    /// [`Outgoing::Refill`], or when its conflation window ends. When nothing is left the connection is fed again, in the
    /// same critical section.
    pub fn refill(&self, id: ConnectionId) {
        let mut state = self.state();
        let State { connections, log, .. } = &mut *state;
        let Some(entry) = connections.get_mut(&id) else { return };
        entry.refill_due = false;
        let Feed::Behind(catch_up) = &mut entry.feed else { return };

        let bytes = STEP_BYTES.min(self.shared.limits.outbox_bytes);
        let step = log.step(catch_up, StepLimits { messages: STEP_MESSAGES, bytes });
        let skipped = std::mem::take(&mut entry.broadcasts_skipped);
        if !step.announcements.is_empty() || skipped > 0 {
            entry.told = true;
            let frames = protocol::catch_up(&step.announcements, skipped);
            entry.outbox.push(Outgoing::Control(Arc::new(frames)));
        }
        for message in step.messages {
            entry.outbox.push(Outgoing::Message(message));
        }
        if !step.done {
            entry.ask_for_refill();
            return;
        }
        if std::mem::take(&mut entry.told) {
            entry.outbox.push(Outgoing::Control(Arc::new(protocol::caught_up(log.position()))));
        }
        if entry.conflate {
            catch_up.restart(Style::Window, log);
        } else {
            entry.feed = Feed::Live;
            entry.outbox.set_fed(true);
        }
    }

    /// Publishes the deletions of keys whose time has come, and drops what is too old. The lock is held for a bounded
    /// number of keys at a time.
    pub fn expire(&self, now: Timestamp) {
        loop {
            let mut state = self.state();
            let expired = state.log.tick(now, STEP_MESSAGES);
            for draft in &expired {
                if let Some(message) = state.log.append(draft, now) {
                    self.deliver(&mut state, &message);
                }
            }
            if expired.len() < STEP_MESSAGES {
                return;
            }
        }
    }

    /// Closes every connection, now and from here on: each gets what is in its outbox, then the close.
    pub fn close_all(&self, close: Close) {
        let mut state = self.state();
        state.closing = Some(close);
        for entry in state.connections.values() {
            entry.outbox.close(close);
        }
    }

    /// How many connections there are.
    #[must_use]
    pub fn active_count(&self) -> usize {
        self.state().connections.len()
    }

    /// Subscribers of each topic, and what is kept of it.
    #[must_use]
    pub fn topic_counts(&self) -> BTreeMap<Topic, TopicCount> {
        self.overview().topics
    }

    /// Connections, topics and position, all of the same moment.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let state = self.state();
        let count =
            |topic: &Topic| TopicCount { subscribers: state.index.subscribers(topic), kept: state.log.stats(topic) };
        Overview {
            connections: state.connections.len(),
            topics: self.topics().iter().map(|topic| (topic.clone(), count(topic))).collect(),
            position: state.log.position(),
        }
    }

    /// Whether nothing is left of any connection, in the registry and in every index.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.connections.is_empty() && state.index.is_empty()
    }

    /// The position of the newest message.
    #[must_use]
    pub fn position(&self) -> Position {
        self.state().log.position()
    }

    /// The latest message of each key within the subscription, in order, and the position at which that holds.
    #[must_use]
    pub fn snapshot(&self, subscription: &Subscription) -> (Position, Vec<Arc<Message>>) {
        let state = self.state();
        (state.log.position(), state.log.state(subscription))
    }
}

impl State {
    fn register(
        &mut self,
        id: ConnectionId,
        outbox: &Outbox,
        subscriptions: Vec<Subscription>,
        since: Since,
        conflate: bool,
    ) {
        for topic in topics_of(&subscriptions) {
            self.index.first(topic);
        }
        for subscription in &subscriptions {
            self.index.add(id, outbox, subscription);
        }
        let mut entry = Entry {
            outbox: outbox.clone(),
            subscriptions,
            feed: Feed::Live,
            conflate,
            told: false,
            refill_due: false,
            broadcasts_skipped: 0,
        };
        if conflate || since != Since::Now {
            let mut catch_up = CatchUp::new(if conflate { Style::Window } else { Style::Resume });
            for subscription in &entry.subscriptions {
                catch_up.add(subscription.clone(), since, &self.log);
            }
            entry.leave_behind(catch_up);
        }
        self.connections.insert(id, entry);
    }

    fn remove(&mut self, id: ConnectionId) -> bool {
        let Some(entry) = self.connections.remove(&id) else { return false };
        entry.outbox.end();
        for topic in topics_of(&entry.subscriptions) {
            self.index.last(topic);
        }
        for subscription in &entry.subscriptions {
            self.index.remove(id, subscription);
        }
        true
    }

    fn subscribe(&mut self, id: ConnectionId, add: Vec<Subscription>, since: Since) -> Vec<Subscription> {
        let Some(entry) = self.connections.get_mut(&id) else { return Vec::new() };
        let before = entry.subscriptions.clone();
        for subscription in &add {
            if !entry.subscriptions.iter().any(|held| held.topic() == subscription.topic()) {
                self.index.first(subscription.topic());
            }
            if let Err(at) = entry.subscriptions.binary_search(subscription) {
                entry.subscriptions.insert(at, subscription.clone());
            }
            self.index.add(id, &entry.outbox, subscription);
        }
        let current = entry.tell_subscriptions(self.log.position());
        // What is held already goes on as it was, unless a beginning is asked for.
        let begins = add.into_iter().filter(|new| since != Since::Now || before.binary_search(new).is_err());
        let begins: Vec<Subscription> = begins.collect();
        if matches!(entry.feed, Feed::Live) && since != Since::Now {
            let mut catch_up = CatchUp::new(Style::Resume);
            for held in before {
                catch_up.add_after(held, self.log.position().offset, false, &self.log);
            }
            entry.leave_behind(catch_up);
        }
        if let Feed::Behind(catch_up) = &mut entry.feed {
            for new in begins {
                catch_up.add(new, since, &self.log);
            }
            entry.ask_for_refill();
        }
        current
    }

    fn unsubscribe(&mut self, id: ConnectionId, drop: &[Subscription]) -> Vec<Subscription> {
        let Some(entry) = self.connections.get_mut(&id) else { return Vec::new() };
        for subscription in drop {
            let Ok(at) = entry.subscriptions.binary_search(subscription) else { continue };
            entry.subscriptions.remove(at);
            if let Feed::Behind(catch_up) = &mut entry.feed {
                catch_up.remove(subscription, &self.log);
            }
            if !entry.subscriptions.iter().any(|held| held.topic() == subscription.topic()) {
                self.index.last(subscription.topic());
            }
            self.index.remove(id, subscription);
        }
        entry.tell_subscriptions(self.log.position())
    }
}

impl Entry {
    fn leave_behind(&mut self, catch_up: CatchUp) {
        self.feed = Feed::Behind(Box::new(catch_up));
        self.outbox.set_fed(false);
        self.ask_for_refill();
    }

    fn ask_for_refill(&mut self) {
        if !std::mem::replace(&mut self.refill_due, true) {
            self.outbox.push(Outgoing::Refill);
        }
    }

    fn tell_subscriptions(&self, position: Position) -> Vec<Subscription> {
        let update = protocol::subscription_update(&self.subscriptions, position);
        self.outbox.push(Outgoing::Control(Arc::new(update)));
        self.subscriptions.clone()
    }
}

/// A registered connection: its outbox, and the promise that it is disconnected exactly once, also when its task panics.
#[derive(Debug)]
pub struct Connection {
    manager: ConnectionManager,
    id: ConnectionId,
    outbox: Outbox,
    total: usize,
}

impl Connection {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Where to put answers to the client.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The manager that it is registered with.
    #[must_use]
    pub fn manager(&self) -> &ConnectionManager {
        &self.manager
    }

    /// How many connections there were when it was registered, itself included.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Puts a control message into the outbox.
    pub fn tell(&self, frames: Frames) {
        self.outbox.push(Outgoing::Control(Arc::new(frames)));
    }

    /// Adds subscriptions; see [`ConnectionManager::subscribe`].
    pub fn subscribe(&self, add: Vec<Subscription>, since: Since) -> Result<Vec<Subscription>, TooManySubscriptions> {
        self.manager.subscribe(self.id, add, since)
    }

    /// Its subscriptions, sorted.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<Subscription> {
        self.manager.subscriptions(self.id)
    }

    /// Drops subscriptions; see [`ConnectionManager::unsubscribe`].
    pub fn unsubscribe(&self, drop: &[Subscription]) -> Vec<Subscription> {
        self.manager.unsubscribe(self.id, drop)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.manager.disconnect(self.id);
    }
}

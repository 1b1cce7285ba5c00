//! The state behind the manager's lock: connections, subscriptions and the log.
//!
//! Invariant: a connection is live, or it has a catch-up that begins after the last live message in its outbox.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::due::Due;
use crate::close::Close;
use crate::index::{ConnectionId, Index, topics_of};
use crate::log::{CatchUp, Log, Since, Style};
use crate::message::Position;
use crate::outbox::{Outbox, Outgoing};
use crate::protocol;
use crate::topic::Subscription;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts about one connection")]
pub(super) struct ConnectionEntry {
    pub(super) outbox: Outbox,
    /// Sorted, without duplicates. A connection has few subscriptions, so a list is enough.
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) feed: DeliveryState,
    /// Where the live messages begin that may still be queued. `None` once a catch-up has handed out its first step.
    pub(super) fed: Option<Fed>,
    /// Whether the client gets conflation windows instead of live messages.
    pub(super) conflate: bool,
    /// Whether `catch_up` was sent. `caught_up` then ends the catch-up.
    pub(super) told: bool,
    /// Whether the client asked for a catch-up and got no `catch_up` yet. The client gets one even if it has no
    /// subscription.
    pub(super) asked: bool,
    /// Whether an [`Outgoing::Refill`] is queued. At most one is queued.
    pub(super) refill_due: bool,
    /// The number of broadcasts since the last `catch_up` for which the outbox had no room.
    pub(super) broadcasts_skipped: u64,
    pub(super) peer: Option<Box<str>>,
    pub(super) connected: Instant,
}

/// Whether a connection gets messages as they are published, or catches up.
#[derive(Debug)]
pub(super) enum DeliveryState {
    Live,
    Behind(Box<CatchUp>),
}

/// Where the live messages of a connection begin. Live messages have offsets above `since`, in order, and can be taken
/// back.
#[derive(Debug)]
pub(super) struct Fed {
    /// The offset at which the connection became live.
    pub(super) since: u64,
    /// Subscriptions that were added after `since`, each with the log's last offset at that moment.
    later: Vec<(Subscription, u64)>,
}

impl Fed {
    pub(super) fn from(offset: u64) -> Self {
        Self { since: offset, later: Vec::new() }
    }

    /// The offset at which the live messages of a subscription begin.
    pub(super) fn began(&self, subscription: &Subscription) -> u64 {
        self.later.iter().find(|(later, _)| later == subscription).map_or(self.since, |(_, offset)| *offset)
    }

    /// Notes that a subscription is removed. Its messages may also belong to overlapping subscriptions that were added
    /// later. If the messages are taken back, the overlapping subscriptions must deliver them again. So these begin at
    /// the offset of the removed subscription.
    fn leave(&mut self, subscription: &Subscription) {
        let began = self.began(subscription);
        self.later.retain(|(later, _)| later != subscription);
        for (_, offset) in self.later.iter_mut().filter(|(later, _)| later.overlaps(subscription)) {
            *offset = began.min(*offset);
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) connections: HashMap<ConnectionId, ConnectionEntry>,
    pub(super) index: Index,
    pub(super) log: Log,
    /// Search for messages to take back only when all outboxes together have more bytes than this.
    pub(super) budget_floor: usize,
    /// Writers that have to be woken.
    pub(super) due: Due,
    /// Set when the drain begins: the time over which the closing of connections is spread.
    pub(super) draining: Option<Duration>,
    /// Set when all connections are told to close: the close that later connections get at once.
    pub(super) closing: Option<Close>,
}

/// What a new connection registers.
pub(super) struct Registration {
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) since: Since,
    pub(super) conflate: bool,
    pub(super) peer: Option<Box<str>>,
}

impl State {
    pub(super) fn new(log: Log) -> Self {
        Self {
            connections: HashMap::new(),
            index: Index::default(),
            log,
            budget_floor: 0,
            due: Due::default(),
            draining: None,
            closing: None,
        }
    }

    pub(super) fn register(&mut self, id: ConnectionId, outbox: &Outbox, wanted: Registration) {
        let Registration { subscriptions, since, conflate, peer } = wanted;
        for topic in topics_of(&subscriptions) {
            self.index.first(topic);
        }
        for subscription in &subscriptions {
            self.index.add(id, outbox, subscription);
        }
        let mut entry = ConnectionEntry {
            outbox: outbox.clone(),
            subscriptions,
            feed: DeliveryState::Live,
            fed: Some(Fed::from(self.log.position().offset)),
            conflate,
            told: false,
            asked: since != Since::Now,
            refill_due: false,
            broadcasts_skipped: 0,
            peer,
            connected: Instant::now(),
        };
        if conflate || since != Since::Now {
            let mut catch_up = CatchUp::new(if conflate { Style::Window } else { Style::Resume });
            for subscription in &entry.subscriptions {
                catch_up.add(subscription.clone(), since, &self.log);
            }
            entry.leave_behind(catch_up);
            entry.fed = None;
        }
        self.connections.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
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

    pub(super) fn subscribe(&mut self, id: ConnectionId, add: Vec<Subscription>, since: Since) -> Vec<Subscription> {
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
        // A subscription that the connection already has continues unchanged, unless the request has a `since`.
        let begins = |new: &Subscription| since != Since::Now || before.binary_search(new).is_err();
        let begins: Vec<Subscription> = add.into_iter().filter(begins).collect();
        let offset = self.log.position().offset;
        entry.asked |= since != Since::Now;
        if let Some(fed) = &mut entry.fed {
            for new in &begins {
                if before.binary_search(new).is_ok() {
                    fed.leave(new);
                }
                fed.later.push((new.clone(), offset));
            }
        }
        if matches!(entry.feed, DeliveryState::Live) && since != Since::Now {
            let mut catch_up = CatchUp::new(Style::Resume);
            for held in before {
                catch_up.add_after(held, offset, false, &self.log);
            }
            entry.leave_behind(catch_up);
        }
        if let DeliveryState::Behind(catch_up) = &mut entry.feed {
            for new in begins {
                catch_up.add(new, since, &self.log);
            }
            entry.ask_for_refill();
        }
        current
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, drop: &[Subscription]) -> Vec<Subscription> {
        let Some(entry) = self.connections.get_mut(&id) else { return Vec::new() };
        for subscription in drop {
            let Ok(at) = entry.subscriptions.binary_search(subscription) else { continue };
            entry.subscriptions.remove(at);
            if let Some(fed) = &mut entry.fed {
                fed.leave(subscription);
            }
            if let DeliveryState::Behind(catch_up) = &mut entry.feed {
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

impl ConnectionEntry {
    /// The offset up to which the catch-up has come; `None` for a live connection.
    pub(super) fn cursor(&self) -> Option<u64> {
        match &self.feed {
            DeliveryState::Live => None,
            DeliveryState::Behind(catch_up) => catch_up.cursor(),
        }
    }

    pub(super) fn leave_behind(&mut self, catch_up: CatchUp) {
        self.feed = DeliveryState::Behind(Box::new(catch_up));
        self.outbox.set_fed(false);
        self.ask_for_refill();
    }

    pub(super) fn ask_for_refill(&mut self) {
        if !std::mem::replace(&mut self.refill_due, true) {
            self.outbox.push(Outgoing::Refill);
        }
    }

    pub(super) fn tell_subscriptions(&self, position: Position) -> Vec<Subscription> {
        let update = protocol::subscription_update(&self.subscriptions, position);
        self.outbox.push(Outgoing::Control(Arc::new(update)));
        self.subscriptions.clone()
    }
}

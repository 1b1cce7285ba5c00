//! What a client wants, and the guard of its registration.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionId, ConnectionManager, TooManySubscriptions};
use crate::log::Since;
use crate::message::{Frames, Timestamp};
use crate::outbox::{Outbox, Outgoing};
use crate::topic::{Subscription, Topics};

/// What a new connection wants.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Its subscriptions; `None` is every topic.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Where to begin.
    pub since: Since,
    /// Nothing is fed; every window of this length the latest of each key is sent.
    pub conflate: Option<Duration>,
    /// Who it is, for operators.
    pub peer: Option<String>,
    /// When its token expires.
    pub expires: Option<Timestamp>,
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
        Self { subscriptions: None, since: Since::Now, conflate: None, peer: None, expires: None }
    }

    /// These subscriptions, from here on.
    #[must_use]
    pub fn to(subscriptions: Vec<Subscription>) -> Self {
        Self { subscriptions: Some(subscriptions), ..Self::all() }
    }
}

/// A registered connection: its outbox, and the promise that it is disconnected exactly once, also when its task panics.
#[derive(Debug)]
pub struct Connection {
    pub(super) manager: ConnectionManager,
    pub(super) id: ConnectionId,
    pub(super) outbox: Outbox,
    pub(super) total: usize,
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

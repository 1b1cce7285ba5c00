//! What a client asks for when it connects, and the guard of a registered connection.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionId, ConnectionManager, TooManySubscriptions};
use crate::log::Since;
use crate::message::{Frames, Timestamp};
use crate::outbox::{Outbox, Outgoing};
use crate::protocol::{self, UnknownParameter};
use crate::topic::{Subscription, Topics};

/// What a new connection asks for.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Subscriptions; `None` means every topic.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Where delivery begins.
    pub since: Since,
    /// The length of the conflation windows. At the end of each window, the latest message of each changed key is sent.
    /// `None` means no conflation.
    pub conflate: Option<Duration>,
    /// The client's address, for operators.
    pub peer: Option<String>,
    /// When the client's token expires.
    pub expires: Option<Timestamp>,
}

impl Connect {
    /// The subscriptions as the text of one field in the log.
    pub(crate) fn shown(&self, all: &Topics) -> String {
        let Some(subscriptions) = &self.subscriptions else { return all.to_string() };
        subscriptions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Asks for every topic, from now on.
    #[must_use]
    pub fn all() -> Self {
        Self { subscriptions: None, since: Since::Now, conflate: None, peer: None, expires: None }
    }

    /// Asks for these subscriptions, from now on.
    #[must_use]
    pub fn to(subscriptions: Vec<Subscription>) -> Self {
        Self { subscriptions: Some(subscriptions), ..Self::all() }
    }
}

/// A guard of a registered connection. Dropping the guard disconnects the connection exactly once, even if its task
/// panics.
#[derive(Debug)]
pub struct Connection {
    pub(super) manager: ConnectionManager,
    pub(super) id: ConnectionId,
    pub(super) outbox: Outbox,
    pub(super) total: usize,
}

impl Connection {
    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The outbox, for answers to the client.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The manager that holds the registration.
    #[must_use]
    pub fn manager(&self) -> &ConnectionManager {
        &self.manager
    }

    /// The number of connections right after this one registered.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Puts a control message into the outbox.
    pub fn tell(&self, frames: Frames) {
        self.outbox.push(Outgoing::Control(Arc::new(frames)));
    }

    /// Sends an `error` with the requested topics that are not configured, if any, and one for each unknown parameter.
    pub(crate) fn tell_unknown(&self, topics: &[Subscription], parameters: &[UnknownParameter]) {
        if !topics.is_empty() {
            self.tell(protocol::unknown_topics(topics, self.manager.topics()));
        }
        for parameter in parameters {
            self.tell(protocol::unknown_parameter(parameter));
        }
    }

    /// Adds subscriptions; see [`ConnectionManager::subscribe`].
    pub fn subscribe(&self, add: Vec<Subscription>, since: Since) -> Result<Vec<Subscription>, TooManySubscriptions> {
        self.manager.subscribe(self.id, add, since)
    }

    /// The current subscriptions, sorted.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<Subscription> {
        self.manager.subscriptions(self.id)
    }

    /// Removes subscriptions; see [`ConnectionManager::unsubscribe`].
    pub fn unsubscribe(&self, drop: &[Subscription]) -> Vec<Subscription> {
        self.manager.unsubscribe(self.id, drop)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.manager.disconnect(self.id);
    }
}

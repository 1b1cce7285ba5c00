//! How connections are let go: one, all at once, or one after the other.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionId, ConnectionManager};
use crate::close::Close;
use crate::outbox::Outgoing;
use crate::protocol;

impl ConnectionManager {
    /// Closes one connection: it gets what is in its outbox, then the close.
    pub fn close(&self, id: ConnectionId, close: Close) {
        if let Some(entry) = self.state().connections.get(&id) {
            entry.outbox.close(close);
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

    /// Tells every connection that the server shuts down, and when its own turn to go is: spread evenly over `spread`,
    /// so that the clients do not come back elsewhere all at once. Returns the turns in order; the caller keeps them.
    /// Whoever registers later is told so, too, and its turn is at once.
    pub fn announce_drain(&self, spread: Duration) -> Vec<(Duration, ConnectionId)> {
        let mut state = self.state();
        state.draining = Some(spread);
        let mut ids: Vec<ConnectionId> = state.connections.keys().copied().collect();
        fastrand::shuffle(&mut ids);
        let count = u32::try_from(ids.len().max(1)).unwrap_or(u32::MAX);
        let turn = |at: usize| spread * u32::try_from(at).unwrap_or(u32::MAX) / count;
        let turns: Vec<_> = ids.into_iter().enumerate().map(|(at, id)| (turn(at), id)).collect();
        for (after, id) in &turns {
            let frames = protocol::reconnect(*after, spread);
            state.connections[id].outbox.push(Outgoing::Control(Arc::new(frames)));
        }
        turns
    }
}

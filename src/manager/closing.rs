//! Closes connections: one, all at once, or one after the other.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionId, ConnectionManager};
use crate::close::Close;
use crate::outbox::Outgoing;
use crate::protocol;

impl ConnectionManager {
    /// Closes one connection after its outbox has been written.
    pub fn close(&self, id: ConnectionId, close: Close) {
        if let Some(entry) = self.state().connections.get(&id) {
            entry.outbox.close(close);
        }
    }

    /// Closes every connection after its outbox has been written. Connections that register later are closed, too.
    pub fn close_all(&self, close: Close) {
        let mut state = self.state();
        state.closing = Some(close);
        for entry in state.connections.values() {
            entry.outbox.close(close);
        }
    }

    /// Tells every client that the server shuts down, and when its connection will be closed. The times are spread
    /// evenly over `spread`, so that the clients do not all reconnect at once. Returns the times in order. The caller
    /// closes each connection at its time. A client that connects later is told, too, and its connection is closed at
    /// once.
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

//! Access to the log for engines that keep the sequence outside of the log: the journal and Redis.
//!
//! Such an engine reads the log, applies messages that already have a position, and may replace the whole log.

use slog::warn;

use super::ConnectionManager;
use super::registry::{DeliveryState, State};
use crate::log::{CatchUp, Log, LogEntry, Since, Style};
use crate::message::{Draft, Timestamp};

impl ConnectionManager {
    /// Reads the log.
    pub(crate) fn read_log<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&self.state().log)
    }

    /// Changes the log without delivering anything, for example to drop old messages.
    pub fn tend_log<T>(&self, tend: impl FnOnce(&mut Log) -> T) -> T {
        tend(&mut self.state().log)
    }

    /// Applies entries that already have their positions, in order, and delivers their messages.
    pub fn apply(&self, entries: impl IntoIterator<Item = LogEntry>) {
        let now = Timestamp::now();
        let mut state = self.state();
        for entry in entries {
            if let Some(message) = state.log.apply(entry, now) {
                self.deliver(&mut state, &message);
                state.due.begin_early(&message);
            }
        }
        self.wake(state);
    }

    /// Drops messages that are too old. Returns at most `limit` deletions of expired keys, which the engine publishes.
    #[must_use]
    pub fn expired(&self, now: Timestamp, limit: usize) -> Vec<Draft> {
        self.state().log.tick(now, limit)
    }

    /// Replaces the log. Every connection catches up with the new log from its position, if that position is valid
    /// there. Otherwise the client gets the current state.
    pub fn reset(&self, log: Log) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.log, log).position();
        let State { connections, log, .. } = &mut *state;
        warn!(self.shared.logger, "ws_manager.reset"; "from" => %before, "to" => %log.position(),
            "connections" => connections.len());
        for entry in connections.values_mut() {
            match &mut entry.feed {
                DeliveryState::Behind(catch_up) => catch_up.transfer(before.epoch, log),
                DeliveryState::Live => {
                    let mut catch_up = CatchUp::new(Style::Resume);
                    for subscription in &entry.subscriptions {
                        catch_up.add(subscription.clone(), Since::Position(before), log);
                    }
                    entry.leave_behind(catch_up);
                }
            }
            // Queued messages belong to the old log. They cannot be taken back, because the new log cannot deliver them
            // again.
            entry.fed = None;
        }
        // The queued `Refill` has already woken the writers of connections that catch up.
        self.wake(state);
    }
}

//! What an engine that keeps the sequence elsewhere does with the log: reads it, takes what has its place already, and
//! puts another log in its place.

use slog::warn;

use super::ConnectionManager;
use super::registry::{Feed, State};
use crate::log::{CatchUp, Entry, Log, Since, Style};
use crate::message::{Draft, Timestamp};

impl ConnectionManager {
    /// Reads the log.
    pub fn read_log<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&self.state().log)
    }

    /// Does to the log what delivers nothing.
    pub fn tend_log<T>(&self, tend: impl FnOnce(&mut Log) -> T) -> T {
        tend(&mut self.state().log)
    }

    /// Takes what has its place in the sequence already, in order, and delivers it.
    pub fn apply(&self, entries: impl IntoIterator<Item = Entry>) {
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

    /// The deletions of keys whose time has come, to be published: at most `limit` of them.
    #[must_use]
    pub fn expired(&self, now: Timestamp, limit: usize) -> Vec<Draft> {
        self.state().log.tick(now, limit)
    }

    /// Puts another log in the place of the one that there was. Every client goes on from where it stands: it is told what
    /// the new log can give it, or that it knows nothing of its position.
    pub fn reset(&self, log: Log) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.log, log).position();
        let State { connections, log, .. } = &mut *state;
        warn!(self.shared.logger, "ws_manager.reset"; "from" => %before, "to" => %log.position(),
            "connections" => connections.len());
        for entry in connections.values_mut() {
            match &mut entry.feed {
                Feed::Behind(catch_up) => catch_up.transfer(before.epoch, log),
                Feed::Live => {
                    let mut catch_up = CatchUp::new(Style::Resume);
                    for subscription in &entry.subscriptions {
                        catch_up.add(subscription.clone(), Since::Position(before), log);
                    }
                    entry.leave_behind(catch_up);
                }
            }
            // What waits belongs to the old log: the new one cannot bring it again.
            entry.fed = None;
        }
        // Who is asked to catch up is woken by its outbox.
        self.wake(state);
    }
}

//! Delivers messages to outboxes. A connection is left behind if its outbox has no room.
//!
//! A connection that is left behind gets no live messages until it has caught up from the log.

use std::cmp::Reverse;
use std::sync::Arc;

use slog::{info, warn};

use super::registry::{ConnectionEntry, DeliveryState, State};
use super::{BUDGET_PARTS, ConnectionId, ConnectionManager};
use crate::log::{CatchUp, Log, Style};
use crate::message::Message;
use crate::outbox::{self, Full, Outgoing};

impl ConnectionManager {
    /// Puts a message into every matching outbox. A connection whose outbox is full is left behind. The other
    /// connections are not affected.
    pub(super) fn deliver(&self, state: &mut State, message: &Arc<Message>) {
        let State { connections, index, log, due, .. } = state;
        index.matching(message, |id, outbox| {
            if !outbox.is_fed() {
                return;
            }
            match outbox.offer(Outgoing::Message(Arc::clone(message))) {
                Ok(wakes) if wakes => due.add(outbox),
                Ok(_) => {}
                Err(Full) => {
                    if let Some(entry) = connections.get_mut(&id) {
                        self.fall_behind(id, entry, log, message.offset() - 1);
                    }
                }
            }
        });
        self.keep_within_budget(state);
    }

    /// Puts an item into every outbox. Returns the number of outboxes that had room. The other connections are left
    /// behind, and their next `catch_up` counts the broadcasts that they missed.
    pub(super) fn put_to_all(&self, state: &mut State, item: &Outgoing) -> usize {
        self.keep_within_budget(state);
        let State { connections, log, due, .. } = state;
        let mut sent = 0;
        for (id, entry) in connections {
            // The log does not keep this item, so it cannot be taken back later to get below the budget. A connection
            // with an empty outbox gets the item in any case, because such a connection does not cause the shortage.
            let within_budget = outbox::size(item) <= self.shared.budget.remaining() || entry.outbox.queued() == 0;
            let offered = if within_budget { entry.outbox.offer(item.clone()) } else { Err(Full) };
            if let Ok(wakes) = offered {
                sent += 1;
                if wakes {
                    due.add(&entry.outbox);
                }
            } else {
                entry.broadcasts_skipped += 1;
                self.fall_behind(*id, entry, log, log.position().offset);
            }
        }
        sent
    }

    /// Leaves a connection behind whose client has everything up to the offset. The connection's writer will ask for
    /// the later messages.
    pub(super) fn fall_behind(&self, id: ConnectionId, entry: &mut ConnectionEntry, log: &Log, offset: u64) {
        let (DeliveryState::Live, Some(fed)) = (&entry.feed, &entry.fed) else { return };
        self.shared.metrics.fell_behind();
        info!(self.shared.logger, "ws.slow"; "connection" => %id, "outbox_bytes" => entry.outbox.queued(),
            "offset" => offset);
        let mut catch_up = CatchUp::new(Style::Slow);
        for subscription in &entry.subscriptions {
            catch_up.add_after(subscription.clone(), offset.max(fed.began(subscription)), true, log);
        }
        entry.leave_behind(catch_up);
    }

    /// If all outboxes together exceed the memory budget, takes queued messages back, from the largest outboxes first.
    /// The clients get these messages from the log later, when their outboxes have room.
    pub(super) fn keep_within_budget(&self, state: &mut State) {
        let budget = &self.shared.budget;
        let used = budget.used();
        // Aim a little below the budget, so that the next message does not exceed it again.
        let margin = budget.limit() / BUDGET_PARTS;
        let target = budget.limit() - margin;
        if used <= target {
            state.budget_floor = 0;
        }
        if used <= state.budget_floor.max(budget.limit()) {
            return;
        }
        let State { connections, log, .. } = state;
        // Skip connections below an eighth of an equal share: together they hold less than the margin.
        let least = margin / connections.len().max(1);
        let queued = connections.iter().map(|(id, entry)| (entry.outbox.queued(), *id));
        let mut largest: Vec<(usize, ConnectionId)> = queued.filter(|(queued, _)| *queued > least).collect();
        largest.sort_unstable_by_key(|(queued, _)| Reverse(*queued));
        let mut left_behind = 0;
        for (_, id) in largest {
            if budget.used() <= target {
                break;
            }
            if let Some(entry) = connections.get_mut(&id) {
                left_behind += usize::from(self.take_back(id, entry, log));
            }
        }
        // Control messages and catch-up steps cannot be taken back, but their size is limited. Do not search again at
        // every message, but only after the total has grown by the margin.
        let still = budget.used();
        state.budget_floor = if still > target { still + margin } else { 0 };
        self.shared.metrics.over_budget();
        warn!(self.shared.logger, "ws_manager.over_budget"; "outbox_bytes" => used, "memory_budget" => budget.limit(),
            "left_behind" => left_behind, "outbox_bytes_now" => still);
    }

    /// Takes back the live messages that a connection's writer has not taken yet. Returns `false` if there are none.
    fn take_back(&self, id: ConnectionId, entry: &mut ConnectionEntry, log: &Log) -> bool {
        let Some(fed) = &entry.fed else { return false };
        let Some(offset) = entry.outbox.abandon(fed.since) else { return false };
        match &mut entry.feed {
            DeliveryState::Live => self.fall_behind(id, entry, log, offset),
            DeliveryState::Behind(catch_up) => catch_up.rewind(|subscription| offset.max(fed.began(subscription)), log),
        }
        true
    }
}

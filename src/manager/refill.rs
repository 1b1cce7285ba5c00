//! The steps with which a connection catches up.
//!
//! Every step is put into the connection's outbox, so that its messages stay in order with all others.

use std::sync::Arc;

use super::registry::{DeliveryState, Fed, State};
use super::{BUDGET_PARTS, ConnectionId, ConnectionManager};
use crate::log::{StepLimits, Style};
use crate::outbox::Outgoing;
use crate::protocol;

/// The maximum number of messages in one step of a catch-up.
const STEP_MESSAGES: usize = 256;
/// The number of bytes that ends a step. The message that reaches it is the last one of the step.
const STEP_BYTES: usize = 128 << 10;
/// The minimum number of bytes that a step may have, even if little of the memory budget is left.
const LEAST_STEP_BYTES: usize = 4 << 10;
/// Every encoded message has more bytes than this. So a step with a low byte limit looks for few messages.
const LEAST_MESSAGE_BYTES: usize = 64;

impl ConnectionManager {
    /// Puts the next step of a connection's catch-up into its outbox. The connection's writer calls this when it comes
    /// to an [`Outgoing::Refill`]. By then the writer has written everything before, so at most one step is queued. The
    /// last step makes the connection live again under the same lock, so that no message is lost in between.
    pub fn refill(&self, id: ConnectionId) {
        let mut state = self.state();
        let State { connections, log, .. } = &mut *state;
        let Some(entry) = connections.get_mut(&id) else { return };
        entry.refill_due = false;
        let DeliveryState::Behind(catch_up) = &mut entry.feed else { return };
        entry.fed = None;

        let step = log.step(catch_up, self.step_limits());
        let skipped = std::mem::take(&mut entry.broadcasts_skipped);
        let asked = std::mem::take(&mut entry.asked);
        if asked || !step.announcements.is_empty() || skipped > 0 {
            entry.told = true;
            for told in &step.announcements {
                self.shared.metrics.caught_up(told.mode.as_str(), told.skipped);
            }
            let frames = protocol::catch_up(&step.announcements, skipped);
            entry.outbox.push(Outgoing::Control(Arc::new(frames)));
        }
        for message in step.messages {
            entry.outbox.push(Outgoing::Missed(message));
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
            entry.feed = DeliveryState::Live;
            entry.fed = Some(Fed::from(log.position().offset));
            entry.outbox.set_fed(true);
        }
    }

    /// Asks for the step at the end of a conflation window. The request waits in the outbox behind earlier items, and
    /// at most one request waits. So a slow client gets fewer steps, not a longer queue.
    pub fn end_window(&self, id: ConnectionId) {
        if let Some(entry) = self.state().connections.get_mut(&id)
            && matches!(entry.feed, DeliveryState::Behind(_))
        {
            entry.ask_for_refill();
        }
    }

    /// The limits of the next step. Half of the memory budget is reserved for live messages. The less of the other half
    /// is free, the smaller the step.
    fn step_limits(&self) -> StepLimits {
        let budget = &self.shared.budget;
        let share = budget.remaining().saturating_sub(budget.limit() / 2) / BUDGET_PARTS;
        let bytes = share.clamp(LEAST_STEP_BYTES, STEP_BYTES).min(self.shared.limits.outbox_bytes);
        StepLimits { messages: STEP_MESSAGES.min(bytes / LEAST_MESSAGE_BYTES), bytes }
    }
}

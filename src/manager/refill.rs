//! The steps with which a connection catches up.
//!
//! Every step is put into the connection's outbox, so that it stays in order with everything else.

use std::sync::Arc;

use super::registry::{DeliveryState, Fed, State};
use super::{BUDGET_PARTS, ConnectionId, ConnectionManager};
use crate::log::{StepLimits, Style};
use crate::outbox::Outgoing;
use crate::protocol;

/// Messages in one step of a catch-up, at most.
const STEP_MESSAGES: usize = 256;
/// The message that reaches this many bytes is the last of its step.
const STEP_BYTES: usize = 128 << 10;
/// A step may always have this many bytes, however little of the memory budget is left.
const LEAST_STEP_BYTES: usize = 4 << 10;
/// Every message is larger than this. A step of few bytes therefore looks for few messages.
const LEAST_MESSAGE_BYTES: usize = 64;

impl ConnectionManager {
    /// Puts the next step of a connection's catch-up into its outbox. Its writer calls this when it comes to an
    /// [`Outgoing::Refill`]: everything before that has been written, so one step at a time is queued. The last step makes
    /// the connection live again, in the same critical section.
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

    /// Asks for the step at the end of a conflation window. The request waits behind what the outbox still holds, and at
    /// most one waits: a client that reads more slowly than its windows end gets fewer steps, not a longer queue.
    pub fn end_window(&self, id: ConnectionId) {
        if let Some(entry) = self.state().connections.get_mut(&id)
            && matches!(entry.feed, DeliveryState::Behind(_))
        {
            entry.ask_for_refill();
        }
    }

    /// Half of the memory budget is reserved for live messages. The less is left of the other half, the smaller the
    /// steps.
    fn step_limits(&self) -> StepLimits {
        let budget = &self.shared.budget;
        let share = budget.remaining().saturating_sub(budget.limit() / 2) / BUDGET_PARTS;
        let bytes = share.clamp(LEAST_STEP_BYTES, STEP_BYTES).min(self.shared.limits.outbox_bytes);
        StepLimits { messages: STEP_MESSAGES.min(bytes / LEAST_MESSAGE_BYTES), bytes }
    }
}

//! Collects the outboxes that got messages and whose writers still have to be woken.

use crate::message::Message;
use crate::outbox::Outbox;

/// A batch wakes its writers each time it has this many bytes, not only at its end. Otherwise a large batch would fill
/// outboxes that nobody drains.
pub(super) const EARLY_BYTES: usize = 64 << 10;

/// Outboxes whose writers have to be woken.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Whether the task that runs the waves wakes them. If it does not run, the end of each publish does.
    gathers: bool,
    outboxes: Vec<Outbox>,
    /// Bytes of the current batch since its writers were last woken.
    batch_bytes: usize,
}

impl Due {
    pub(super) fn add(&mut self, outbox: &Outbox) {
        self.outboxes.push(outbox.clone());
    }

    /// Sets whether the task that runs the waves takes them.
    pub(super) fn gather(&mut self, gathers: bool) {
        self.gathers = gathers;
    }

    pub(super) fn take(&mut self) -> Vec<Outbox> {
        std::mem::take(&mut self.outboxes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outboxes.is_empty()
    }

    /// Counts a message of the current batch, and wakes the writers once [`EARLY_BYTES`] have come together.
    pub(super) fn begin_early(&mut self, message: &Message) {
        self.batch_bytes += message.frames().size();
        if self.batch_bytes >= EARLY_BYTES {
            self.batch_bytes = 0;
            self.outboxes.drain(..).for_each(|outbox| outbox.wake());
        }
    }

    /// Ends a batch. Returns the outboxes that the caller has to wake: none if a wave will do it.
    pub(super) fn overdue(&mut self) -> Vec<Outbox> {
        self.batch_bytes = 0;
        if self.gathers { Vec::new() } else { self.take() }
    }
}

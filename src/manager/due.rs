//! Collects the outboxes that got messages and whose writers have not been woken yet.

use crate::message::Message;
use crate::outbox::Outbox;

/// During a batch, the writers are woken each time this many bytes have been added, not only at the end of the batch.
/// Otherwise a large batch would fill outboxes before their writers run.
pub(super) const EARLY_BYTES: usize = 64 << 10;

/// Outboxes whose writers have to be woken.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Whether the task that runs the waves wakes the writers. If that task does not run, each publish wakes them at
    /// its end.
    gathers: bool,
    outboxes: Vec<Outbox>,
    /// The number of bytes of the current batch since the writers were last woken.
    batch_bytes: usize,
}

impl Due {
    pub(super) fn add(&mut self, outbox: &Outbox) {
        self.outboxes.push(outbox.clone());
    }

    /// Sets whether the task that runs the waves wakes the writers.
    pub(super) fn gather(&mut self, gathers: bool) {
        self.gathers = gathers;
    }

    pub(super) fn take(&mut self) -> Vec<Outbox> {
        std::mem::take(&mut self.outboxes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outboxes.is_empty()
    }

    /// Counts a message of the current batch, and wakes the writers when [`EARLY_BYTES`] have been added since the last
    /// time.
    pub(super) fn begin_early(&mut self, message: &Message) {
        self.batch_bytes += message.frames().size();
        if self.batch_bytes >= EARLY_BYTES {
            self.batch_bytes = 0;
            self.outboxes.drain(..).for_each(|outbox| outbox.wake());
        }
    }

    /// Ends a batch. Returns the outboxes whose writers the caller has to wake. Returns none if a wave will wake them.
    pub(super) fn overdue(&mut self) -> Vec<Outbox> {
        self.batch_bytes = 0;
        if self.gathers { Vec::new() } else { self.take() }
    }
}

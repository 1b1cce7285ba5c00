//! Outboxes whose writers have not been told yet that there is something for them.

use crate::message::Message;
use crate::outbox::Outbox;

/// A batch of more than this does not wait for its own end: an outbox holds only so much.
pub(super) const EARLY_BYTES: usize = 64 << 10;

/// The outboxes that are due to be woken.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Whether they are gathered for somebody who wakes them. Where nobody does they are woken at once.
    gathers: bool,
    outboxes: Vec<Outbox>,
    /// Bytes of the batch that is being published, since its writers were last woken.
    batch_bytes: usize,
}

impl Due {
    pub(super) fn add(&mut self, outbox: &Outbox) {
        self.outboxes.push(outbox.clone());
    }

    /// Says whether somebody takes them from here on.
    pub(super) fn gather(&mut self, gathers: bool) {
        self.gathers = gathers;
    }

    pub(super) fn take(&mut self) -> Vec<Outbox> {
        std::mem::take(&mut self.outboxes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outboxes.is_empty()
    }

    /// Notes a message of a batch, whose writers begin before its end where it is a large one.
    pub(super) fn begin_early(&mut self, message: &Message) {
        self.batch_bytes += message.frames().size();
        if self.batch_bytes >= EARLY_BYTES {
            self.batch_bytes = 0;
            self.outboxes.drain(..).for_each(|outbox| outbox.wake());
        }
    }

    /// What is to be woken at once, at the end of a batch.
    pub(super) fn overdue(&mut self) -> Vec<Outbox> {
        self.batch_bytes = 0;
        if self.gathers { Vec::new() } else { self.take() }
    }
}

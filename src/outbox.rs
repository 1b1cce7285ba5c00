//! The outbox of a connection: a channel from the manager to the writer. Its account counts the bytes that are queued,
//! or taken out and not written yet.
//!
//! The channel itself has no limit, because the manager must never wait. The limit is on the account: a message that
//! would raise the account above `outbox-bytes` is refused. The manager then delivers no live messages until the
//! connection has caught up.
//!
//! The sum of all accounts is limited by `memory-budget`. Above that, the manager takes queued messages back
//! (`Outbox::abandon`). It cannot take back messages that the writer has taken out, so the writer takes out only about
//! `TAKEN_BYTES` at once.
//!
//! This is a queue under a mutex, not a library's channel. A library's channel needs 930 bytes for an idle connection
//! (a block of slots and padded counters), this queue 200. The account shares the queue's lock. The writer takes many
//! items at once, and is woken only if the queue was empty.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::close::Close;
use crate::message::{Frames, Message};

/// The maximum number of slots that an empty queue keeps allocated for its next items.
const KEPT_SLOTS: usize = 16;

/// The writer takes out about this many bytes at once, which is enough for one system call.
const TAKEN_BYTES: usize = 64 << 10;

/// An item of the outbox.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A published message, delivered live.
    Message(Arc<Message>),
    /// A published message from a catch-up. The measured delivery time leaves it out, because its age also includes the
    /// time before the catch-up.
    Missed(Arc<Message>),
    /// A control message or a WebSocket control frame.
    Control(Arc<Frames>),
    /// A marker. When the writer comes to this marker, it asks the manager for the next step of the catch-up.
    Refill,
    /// The end of the connection. The writer sends the close, and nothing after it.
    Close(Close),
}

impl Outgoing {
    /// The bytes to send, if the item has any.
    #[must_use]
    pub fn frames(&self) -> Option<&Frames> {
        match self {
            Self::Message(message) | Self::Missed(message) => Some(message.frames()),
            Self::Control(frames) => Some(frames),
            Self::Refill | Self::Close(_) => None,
        }
    }
}

/// The outbox has no room for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The bytes in the accounts of all outboxes together, and their limit.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget with this limit, in bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// The limit, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The number of bytes in the accounts of all outboxes.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The number of bytes that still fit below the limit.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Outgoing>,
    /// The account: bytes that are queued, or taken out and not written yet.
    bytes: usize,
    /// Whether a close is queued. No item may follow a close.
    closed: bool,
    /// Whether the connection is disconnected. No more items come then.
    ended: bool,
    /// Whether the receiver was dropped.
    dropped: bool,
    /// The number of bytes written so far.
    sent: u64,
}

#[derive(Debug)]
struct Channel {
    queue: Mutex<Queue>,
    limit: usize,
    /// The budget of all outboxes.
    budget: Arc<Budget>,
    /// Whether the connection is live. This copy of the registry's value saves a look-up for each delivered message. It
    /// changes only under the manager's lock.
    fed: AtomicBool,
    /// Wakes the writer, which waits for items.
    receiver: AtomicWaker,
    /// Wakes the reader, which waits for room in the account or for the end of the writer.
    sender: AtomicWaker,
}

impl Channel {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code panics under this lock. Even after a panic, the queue would be consistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes off the account. Wakes the reader if that brings the account back within the limit.
    fn give_back(&self, mut queue: MutexGuard<'_, Queue>, bytes: usize) {
        let before = queue.bytes;
        queue.bytes -= bytes;
        drop(queue);
        self.budget.give_back(bytes);
        if before > self.limit && before - bytes <= self.limit {
            self.sender.wake();
        }
    }
}

/// The sending end of the channel. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    shared: Arc<Channel>,
}

/// The receiving end of the channel.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Channel>,
    /// Items that were taken out together and not popped yet.
    taken: VecDeque<Outgoing>,
    /// The number of bytes that are written but still in the account.
    written: usize,
}

/// Creates a channel. Its account refuses messages above `limit` bytes, and counts towards the budget.
#[must_use]
pub fn channel(limit: usize, budget: Arc<Budget>) -> (Outbox, Receiver) {
    let shared = Arc::new(Channel {
        queue: Mutex::default(),
        limit,
        budget,
        fed: AtomicBool::new(true),
        receiver: AtomicWaker::new(),
        sender: AtomicWaker::new(),
    });
    (Outbox { shared: Arc::clone(&shared) }, Receiver { shared, taken: VecDeque::new(), written: 0 })
}

impl Outbox {
    /// Queues a published message or a broadcast, unless it would exceed the limit. Returns whether the caller has to
    /// wake the writer ([`Self::wake`]). The caller may wake the writer later, after it has queued more items.
    pub fn offer(&self, item: Outgoing) -> Result<bool, Full> {
        let queue = self.shared.queue();
        if queue.bytes + size(&item) > self.shared.limit {
            return Err(Full);
        }
        Ok(self.put(queue, item, false))
    }

    /// Wakes the writer.
    pub(crate) fn wake(&self) {
        self.shared.receiver.wake();
    }

    /// Queues an answer to the client or a step of a catch-up, even above the limit of the account. The callers limit
    /// these items. The reader waits for [`Self::room`] before each answer. A step has a maximum size, and the writer
    /// asks for it only after it has written everything before it.
    pub fn push(&self, item: Outgoing) {
        if self.put(self.shared.queue(), item, false) {
            self.shared.receiver.wake();
        }
    }

    /// Queues an item. With `last`, the items after it are dropped. Returns whether the writer has to be woken.
    fn put(&self, mut queue: MutexGuard<'_, Queue>, item: Outgoing, last: bool) -> bool {
        if queue.closed || queue.ended || queue.dropped {
            return false;
        }
        let bytes = size(&item);
        queue.bytes += bytes;
        queue.closed = last;
        queue.items.push_back(item);
        // Count the bytes while the queue is locked, because the writer must not give them back before they are
        // counted.
        self.shared.budget.add(bytes);
        queue.items.len() == 1
    }

    /// Removes the published messages above this offset from the queue. If there were any, returns the offset up to
    /// which the client gets everything. Removes nothing if a close is queued, because the client could not get the
    /// messages later.
    pub(crate) fn abandon(&self, behind: u64) -> Option<u64> {
        let mut queue = self.shared.queue();
        if queue.closed {
            return None;
        }
        let (mut first, mut bytes) = (None, 0);
        queue.items.retain(|item| match item {
            Outgoing::Message(message) if message.offset() > behind => {
                first.get_or_insert(message.offset());
                bytes += size(item);
                false
            }
            _ => true,
        });
        self.shared.give_back(queue, bytes);
        first.map(|offset| offset - 1)
    }

    /// Queues a close. Items after the close are dropped, because RFC 6455, section 5.5.1, allows none.
    pub fn close(&self, close: Close) {
        self.end_with(Outgoing::Close(close));
    }

    /// Queues the answer to the peer's close frame. Later items are dropped, too, because the manager offers messages
    /// until the connection is removed from the registry.
    pub(crate) fn answer_close(&self, frames: Frames) {
        self.end_with(Outgoing::Control(Arc::new(frames)));
    }

    fn end_with(&self, last: Outgoing) {
        self.put(self.shared.queue(), last, true);
        self.shared.receiver.wake();
    }

    /// Ends the channel. The receiver gets the queued items, then the end.
    pub fn end(&self) {
        self.shared.queue().ended = true;
        self.shared.receiver.wake();
    }

    /// Whether the connection is live.
    pub(crate) fn is_fed(&self) -> bool {
        self.shared.fed.load(Ordering::Relaxed)
    }

    /// Sets whether the connection is live. The caller holds the manager's lock, which orders the changes.
    pub(crate) fn set_fed(&self, fed: bool) {
        self.shared.fed.store(fed, Ordering::Relaxed);
    }

    /// The account: bytes that are queued, or taken out and not written yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.queue().bytes
    }

    /// The number of bytes written so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.queue().sent
    }

    /// Waits until the account is within the limit. Returns `false` if the receiver was dropped. Only one task may wait
    /// at a time.
    pub async fn room(&self) -> bool {
        self.wait(|queue| queue.dropped || queue.bytes <= self.shared.limit).await;
        !self.shared.queue().dropped
    }

    /// Waits until the receiver is dropped. Only one task may wait at a time.
    pub async fn closed(&self) {
        self.wait(|queue| queue.dropped).await;
    }

    async fn wait(&self, holds: impl Fn(&Queue) -> bool) {
        poll_fn(|cx| {
            if holds(&self.shared.queue()) {
                return Poll::Ready(());
            }
            self.shared.sender.register(cx.waker());
            // Check again, because the change may have come before the waker was registered.
            if holds(&self.shared.queue()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Receiver {
    /// Waits until there is an item. Returns `false` once the channel has ended and is empty. If there is an item
    /// already, first yields to other tasks once, so that more items can gather.
    pub async fn ready(&mut self) -> bool {
        let mut waited = false;
        let more = poll_fn(|cx| {
            let more = self.poll_ready(cx);
            waited |= more.is_pending();
            more
        })
        .await;
        if more && !waited {
            tokio::task::yield_now().await;
        }
        more
    }

    fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<bool> {
        if !self.taken.is_empty() {
            return Poll::Ready(true);
        }
        // Register the waker before the check. Otherwise an item that is queued between the two would not wake the
        // task.
        self.shared.receiver.register(cx.waker());
        let written = std::mem::take(&mut self.written);
        let mut queue = self.shared.queue();
        let state = match (queue.items.is_empty(), queue.ended) {
            (false, _) => Poll::Ready(true),
            (true, true) => Poll::Ready(false),
            (true, false) => Poll::Pending,
        };
        if written > 0 {
            queue.sent += written as u64;
            self.shared.give_back(queue, written);
        }
        state
    }

    /// The next item, without waiting.
    pub fn try_recv(&mut self) -> Option<Outgoing> {
        self.take();
        self.pop()
    }

    /// Takes out queued items, about as many as one system call writes. Does nothing if items that were taken out
    /// earlier are not popped yet.
    pub fn take(&mut self) {
        if !self.taken.is_empty() {
            return;
        }
        // Free the slots that a burst needed, so that an idle connection keeps few.
        if self.taken.capacity() > KEPT_SLOTS {
            self.taken = VecDeque::new();
        }
        let mut queue = self.shared.queue();
        if queue.bytes <= TAKEN_BYTES {
            std::mem::swap(&mut self.taken, &mut queue.items);
            return;
        }
        let mut bytes = 0;
        while bytes < TAKEN_BYTES
            && let Some(item) = queue.items.pop_front()
        {
            bytes += size(&item);
            self.taken.push_back(item);
        }
    }

    /// The next item that was taken out.
    pub fn pop(&mut self) -> Option<Outgoing> {
        self.taken.pop_front()
    }

    /// Notes that bytes are written. They leave the account with [`Self::give_back`], or when the writer next waits for
    /// an item.
    pub fn settle(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Takes all written bytes off the account. The writer calls this before it asks for the next step of a catch-up.
    pub fn give_back(&mut self) {
        let written = std::mem::take(&mut self.written);
        let mut queue = self.shared.queue();
        queue.sent += written as u64;
        self.shared.give_back(queue, written);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.dropped = true;
        let unsent = std::mem::take(&mut queue.items);
        let bytes = queue.bytes;
        self.shared.give_back(queue, bytes);
        drop(unsent);
        self.shared.sender.wake();
    }
}

/// The bytes that an item adds to the account.
#[must_use]
pub fn size(item: &Outgoing) -> usize {
    item.frames().map_or(0, Frames::size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(limit: usize) -> (Outbox, Receiver) {
        super::channel(limit, Arc::new(Budget::new(usize::MAX)))
    }

    fn item(bytes: usize) -> Outgoing {
        Outgoing::Control(Arc::new(Frames::raw(vec![0; bytes])))
    }

    /// Notes bytes as written, then waits for an item, which takes them off the account.
    fn settled(receiver: &mut Receiver, bytes: usize) {
        receiver.settle(bytes);
        while receiver.pop().is_some() {}
        let _ = receiver.poll_ready(&Context::from_waker(futures_util::task::noop_waker_ref()));
    }

    #[test]
    fn item_fits_up_to_the_limit_and_not_above() {
        let (outbox, mut receiver) = channel(100);
        assert_eq!(outbox.offer(item(60)), Ok(true));
        assert_eq!(outbox.offer(item(41)), Err(Full));
        assert_eq!(outbox.offer(item(40)), Ok(false));
        assert_eq!(size(&receiver.try_recv().unwrap()), 60);
        settled(&mut receiver, 60);
        assert_eq!(outbox.offer(item(61)), Err(Full));
        assert_eq!(outbox.offer(item(60)), Ok(true));
    }

    #[test]
    fn items_after_the_close_are_dropped() {
        let (outbox, mut receiver) = channel(100);
        outbox.close(Close::Draining);
        outbox.push(item(1));
        outbox.close(Close::TooBig);
        assert!(matches!(receiver.try_recv(), Some(Outgoing::Close(Close::Draining))));
        assert!(receiver.try_recv().is_none());
    }

    #[tokio::test]
    async fn room_waits_until_the_account_is_within_the_limit() {
        let (outbox, mut receiver) = channel(10);
        outbox.push(item(30));
        assert!(receiver.try_recv().is_some());
        let waiting = outbox.room();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        settled(&mut receiver, 15);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        settled(&mut receiver, 5);
        assert!(waiting.await);
    }

    #[tokio::test]
    async fn receiver_gets_every_item_in_order_then_the_end() {
        let (outbox, mut receiver) = channel(1 << 20);
        let feeder = tokio_util::task::TaskTracker::new();
        let feeding = feeder.spawn(async move {
            for length in 0..5000 {
                outbox.push(item(length % 200));
                if length % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            outbox.end();
        });
        for length in 0..5000 {
            assert!(receiver.ready().await, "the channel has not ended");
            assert_eq!(receiver.try_recv().as_ref().map(size), Some(length % 200));
            receiver.settle(length % 200);
        }
        assert!(!receiver.ready().await);
        feeding.await.unwrap();
    }

    #[tokio::test]
    async fn waiters_return_when_the_receiver_is_dropped() {
        let (outbox, receiver) = channel(10);
        outbox.push(item(30));
        let waiting = outbox.room();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(receiver);
        assert!(!waiting.await);
        outbox.closed().await;
    }
}

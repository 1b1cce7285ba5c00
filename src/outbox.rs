//! The outbox of a connection: an unbounded channel that the manager feeds and the writer drains, with an account of
//! the bytes that are on their way.
//!
//! The channel itself has no bound, since the manager must never wait; the account is the bound. A message that would
//! bring it over `outbox-bytes` is refused, and the manager stops feeding the connection until it has caught up.
//!
//! All accounts together make up the budget (`memory-budget`). Above it the manager takes back what is queued
//! (`Outbox::abandon`), which is why the writer takes only so much at once.
//!
//! It is a queue under a mutex rather than a library's channel: one costs an idle connection 930 bytes (a block of slots
//! and padded counters), this one 200; the account is kept under the same lock; and the writer takes many items at once,
//! and is woken only when there was nothing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::close::Close;
use crate::message::{Frames, Message};

/// Slots that an empty queue keeps for its next items.
const KEPT_SLOTS: usize = 16;

/// Bytes that the writer takes out at once, about: enough for a system call.
const TAKEN_BYTES: usize = 64 << 10;

/// What the writer takes out.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A published message, put in as it came.
    Message(Arc<Message>),
    /// A published message that a catch-up handed out: its age says nothing about how fast the server delivers.
    Missed(Arc<Message>),
    /// Anything else that is sent.
    Control(Arc<Frames>),
    /// Here the connection was left behind: the writer asks the manager for what comes next.
    Refill,
    /// The last thing that is sent.
    Close(Close),
}

impl Outgoing {
    /// The bytes to send, where it is something to send as it is.
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

/// What all outboxes together have on their way, and should at most.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Bytes it should be at most.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes on their way.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that are left of it.
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
    /// Bytes on their way: queued, or taken out and not yet written.
    bytes: usize,
    /// The close frame is in: nothing comes after it.
    closed: bool,
    /// The connection is disconnected: what is there is the last.
    ended: bool,
    /// The receiver is gone.
    dropped: bool,
    /// Bytes that were written.
    sent: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    limit: usize,
    /// Shared by all outboxes.
    budget: Arc<Budget>,
    /// Whether the manager feeds it: the hot path's copy of what the registry says, changed under the manager's lock.
    fed: AtomicBool,
    /// The writer, waiting for items.
    receiver: AtomicWaker,
    /// The reader, waiting for room or for the writer's end.
    sender: AtomicWaker,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock; if it did, the queue would still be a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes off the account, and wakes who waits for room once there is some.
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

/// The end that is fed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

/// The end that is drained.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Items that were taken out together.
    taken: VecDeque<Outgoing>,
    /// Bytes that are written and still on the account.
    written: usize,
}

/// A channel whose account holds at most `limit` bytes of messages, and counts in the budget.
#[must_use]
pub fn channel(limit: usize, budget: Arc<Budget>) -> (Outbox, Receiver) {
    let shared = Arc::new(Shared {
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
    /// Puts a published message or a broadcast in, unless it would exceed the limit. Returns whether the writer is now to
    /// be woken ([`Self::wake`]), which can wait until there is more for it.
    pub fn offer(&self, item: Outgoing) -> Result<bool, Full> {
        let queue = self.shared.queue();
        if queue.bytes + size(&item) > self.shared.limit {
            return Err(Full);
        }
        Ok(self.put(queue, item, false))
    }

    /// Tells the writer that there is something.
    pub fn wake(&self) {
        self.shared.receiver.wake();
    }

    /// Puts in what must not be lost: answers to the client and the steps of a catch-up. Who does so bounds them:
    /// the reader waits for [`Self::room`] before each answer, and a step is bounded and follows a drained outbox.
    pub fn push(&self, item: Outgoing) {
        if self.put(self.shared.queue(), item, false) {
            self.shared.receiver.wake();
        }
    }

    /// Whether the writer has to be told.
    fn put(&self, mut queue: MutexGuard<'_, Queue>, item: Outgoing, last: bool) -> bool {
        if queue.closed || queue.ended || queue.dropped {
            return false;
        }
        let bytes = size(&item);
        queue.bytes += bytes;
        queue.closed = last;
        queue.items.push_back(item);
        // Before the writer can see it, and take it off again.
        self.shared.budget.add(bytes);
        queue.items.len() == 1
    }

    /// Takes back the published messages behind this offset that the writer has not taken yet. Returns the offset that
    /// the client has everything up to, if there was anything to take back. What stands before a close stays: the client
    /// would not come back for it.
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

    /// Puts the close frame in. Whatever comes after it is dropped: the protocol allows nothing behind it.
    pub fn close(&self, close: Close) {
        self.end_with(Outgoing::Close(close));
    }

    /// Puts in the answer to the peer's close frame, behind which the protocol allows nothing either (RFC 6455,
    /// section 5.5.1): until the connection is out of the registry, messages are still offered.
    pub fn answer_close(&self, frames: Frames) {
        self.end_with(Outgoing::Control(Arc::new(frames)));
    }

    fn end_with(&self, last: Outgoing) {
        self.put(self.shared.queue(), last, true);
        self.shared.receiver.wake();
    }

    /// Ends the channel: the receiver gets what is there, and then the end.
    pub fn end(&self) {
        self.shared.queue().ended = true;
        self.shared.receiver.wake();
    }

    /// Whether messages are put in as they come.
    pub(crate) fn is_fed(&self) -> bool {
        self.shared.fed.load(Ordering::Relaxed)
    }

    /// Only under the manager's lock, which orders it.
    pub(crate) fn set_fed(&self, fed: bool) {
        self.shared.fed.store(fed, Ordering::Relaxed);
    }

    /// Bytes on their way: queued, or taken out and not yet written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.queue().bytes
    }

    /// Bytes that were written so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.queue().sent
    }

    /// Waits until the account is within its limit; `false` once the receiver is gone. One task may wait at a time.
    pub async fn room(&self) -> bool {
        self.wait(|queue| queue.dropped || queue.bytes <= self.shared.limit).await;
        !self.shared.queue().dropped
    }

    /// Waits until the receiver is gone. One task may wait at a time.
    pub async fn closed(&self) {
        self.wait(|queue| queue.dropped).await;
    }

    async fn wait(&self, holds: impl Fn(&Queue) -> bool) {
        poll_fn(|cx| {
            if holds(&self.shared.queue()) {
                return Poll::Ready(());
            }
            self.shared.sender.register(cx.waker());
            // Again: it may have come to hold before the waker was there.
            if holds(&self.shared.queue()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Receiver {
    /// Waits until there is an item; `false` once the channel has ended and all was taken. Where there is one already,
    /// others run first, so that more can gather.
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
        // Before the look: an item that comes behind it finds the waker.
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

    /// The next item, if there is one already.
    pub fn try_recv(&mut self) -> Option<Outgoing> {
        self.take();
        self.pop()
    }

    /// Takes out what is there, about as much as a system call takes, unless some of that is left from before.
    pub fn take(&mut self) {
        if !self.taken.is_empty() {
            return;
        }
        // What a burst left of slots is given back: an idle connection keeps few.
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

    /// The next of the items that were taken out.
    pub fn pop(&mut self) -> Option<Outgoing> {
        self.taken.pop_front()
    }

    /// Notes bytes that are written. The account gets them back with [`Self::give_back`], or when the next item is waited
    /// for.
    pub fn settle(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Gives the account all written bytes back. The next step of a catch-up follows, which must find them gone.
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

/// What an item counts in the account.
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

    /// Notes bytes as written and waits for more, which is when the account gets them back.
    fn settled(receiver: &mut Receiver, bytes: usize) {
        receiver.settle(bytes);
        while receiver.pop().is_some() {}
        let _ = receiver.poll_ready(&Context::from_waker(futures_util::task::noop_waker_ref()));
    }

    #[test]
    fn the_limit_is_the_last_size_that_fits() {
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
    fn nothing_comes_after_the_close() {
        let (outbox, mut receiver) = channel(100);
        outbox.close(Close::Draining);
        outbox.push(item(1));
        outbox.close(Close::TooBig);
        assert!(matches!(receiver.try_recv(), Some(Outgoing::Close(Close::Draining))));
        assert!(receiver.try_recv().is_none());
    }

    #[tokio::test]
    async fn a_waiter_goes_on_when_the_account_is_back_within_the_limit() {
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
    async fn the_receiver_gets_everything_in_order_and_then_the_end() {
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
            assert!(receiver.ready().await, "it has not ended");
            assert_eq!(receiver.try_recv().as_ref().map(size), Some(length % 200));
            receiver.settle(length % 200);
        }
        assert!(!receiver.ready().await);
        feeding.await.unwrap();
    }

    #[tokio::test]
    async fn waiters_end_when_the_receiver_is_gone() {
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

//! The outbox of a connection: an unbounded channel that the manager feeds and the writer drains, with an account of
//! the bytes that are on their way.
//!
//! The channel itself has no bound, since the manager must never wait; the account is the bound. A message that would
//! bring it over `outbox-bytes` is refused, and the manager stops feeding the connection until it has caught up.
//!
//! It is a queue under a mutex rather than a library's channel: one costs an idle connection 930 bytes (a block of slots
//! and padded counters), this one 200; the account is kept under the same lock; and the writer takes all that is there
//! at once, and is woken only when there was nothing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::close::Close;
use crate::message::{Frames, Message};

/// Slots that an empty queue keeps for its next items.
const KEPT_SLOTS: usize = 16;

/// What the writer takes out.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A published message.
    Message(Arc<Message>),
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
            Self::Message(message) => Some(message.frames()),
            Self::Control(frames) => Some(frames),
            Self::Refill | Self::Close(_) => None,
        }
    }
}

/// The outbox has no room for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Bytes on their way.
    pub queued: usize,
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
}

/// A channel whose account holds at most `limit` bytes of messages.
#[must_use]
pub fn channel(limit: usize) -> (Outbox, Receiver) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        limit,
        fed: AtomicBool::new(true),
        receiver: AtomicWaker::new(),
        sender: AtomicWaker::new(),
    });
    (Outbox { shared: Arc::clone(&shared) }, Receiver { shared, taken: VecDeque::new() })
}

impl Outbox {
    /// Puts a published message or a broadcast in, unless it would exceed the limit.
    pub fn offer(&self, item: Outgoing) -> Result<(), Full> {
        let queue = self.shared.queue();
        if queue.bytes + size(&item) > self.shared.limit {
            return Err(Full { queued: queue.bytes });
        }
        self.put(queue, item, false);
        Ok(())
    }

    /// Puts in what must not be lost: answers to the client and the steps of a catch-up. Who does so bounds them:
    /// the reader waits for [`Self::room`] before each answer, and a step is bounded and follows a drained outbox.
    pub fn push(&self, item: Outgoing) {
        self.put(self.shared.queue(), item, false);
    }

    fn put(&self, mut queue: MutexGuard<'_, Queue>, item: Outgoing, last: bool) {
        if queue.closed || queue.ended || queue.dropped {
            return;
        }
        queue.bytes += size(&item);
        queue.closed = last;
        queue.items.push_back(item);
        let was_empty = queue.items.len() == 1;
        drop(queue);
        if was_empty {
            self.shared.receiver.wake();
        }
    }

    /// Puts the close frame in. Whatever comes after it is dropped: the protocol allows nothing behind it.
    pub fn close(&self, close: Close) {
        self.put(self.shared.queue(), Outgoing::Close(close), true);
    }

    /// Puts in the answer to the peer's close frame, behind which the protocol allows nothing either (RFC 6455,
    /// section 5.5.1): until the connection is out of the registry, messages are still offered.
    pub fn answer_close(&self, frames: Frames) {
        self.put(self.shared.queue(), Outgoing::Control(Arc::new(frames)), true);
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
    /// Waits for the next item; `None` once the channel has ended and all was taken.
    pub async fn recv(&mut self) -> Option<Outgoing> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<Outgoing>> {
        if let Some(item) = self.try_recv() {
            return Poll::Ready(Some(item));
        }
        self.shared.receiver.register(cx.waker());
        // Again: an item may have come before the waker was there. One look at both, under one lock: the last item may
        // come together with the end.
        let mut queue = self.shared.queue();
        if queue.items.is_empty() {
            return if queue.ended { Poll::Ready(None) } else { Poll::Pending };
        }
        std::mem::swap(&mut self.taken, &mut queue.items);
        drop(queue);
        Poll::Ready(self.taken.pop_front())
    }

    /// The next item, if there is one already.
    pub fn try_recv(&mut self) -> Option<Outgoing> {
        if self.taken.is_empty() {
            // What a burst left of slots is given back: an idle connection keeps few.
            if self.taken.capacity() > KEPT_SLOTS {
                self.taken = VecDeque::new();
            }
            std::mem::swap(&mut self.taken, &mut self.shared.queue().items);
        }
        self.taken.pop_front()
    }

    /// Whether messages are put in as they come: what is taken out is new then.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.shared.fed.load(Ordering::Relaxed)
    }

    /// Takes bytes that are written off the account.
    pub fn settle(&self, bytes: usize) {
        let limit = self.shared.limit;
        let mut queue = self.shared.queue();
        let before = queue.bytes;
        queue.bytes -= bytes;
        queue.sent += bytes as u64;
        drop(queue);
        if before > limit && before - bytes <= limit {
            self.shared.sender.wake();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.dropped = true;
        let unsent = std::mem::take(&mut queue.items);
        drop(queue);
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

    fn item(bytes: usize) -> Outgoing {
        Outgoing::Control(Arc::new(Frames::raw(vec![0; bytes])))
    }

    #[test]
    fn the_limit_is_the_last_size_that_fits() {
        let (outbox, receiver) = channel(100);
        assert_eq!(outbox.offer(item(60)), Ok(()));
        assert_eq!(outbox.offer(item(41)), Err(Full { queued: 60 }));
        assert_eq!(outbox.offer(item(40)), Ok(()));
        receiver.settle(60);
        assert_eq!(outbox.offer(item(61)), Err(Full { queued: 40 }));
        assert_eq!(outbox.offer(item(60)), Ok(()));
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
        let (outbox, receiver) = channel(10);
        outbox.push(item(30));
        let waiting = outbox.room();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        receiver.settle(15);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        receiver.settle(5);
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
            let next = receiver.recv().await.expect("it has not ended");
            assert_eq!(size(&next), length % 200);
            receiver.settle(length % 200);
        }
        assert!(receiver.recv().await.is_none());
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

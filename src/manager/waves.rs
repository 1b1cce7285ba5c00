//! Wakes writers in waves: messages that are published during one wave go out with the next.
//!
//! Waking writers at every publish is fastest for one message, but under load each delivery costs a system call. So a
//! wave begins only after the writers of the previous wave have run. After a long wave, the task also rests for half
//! the time that the wave took. So the number of messages in one system call grows with the load, and an idle server
//! still wakes its writers at once.
//!
//! Measured in one run, compared with waking at every publish: 200 clients got 1.1 times as many deliveries a second.
//! With 5,000 clients at 50 messages/s, each delivery cost 0.74 times the processor time.

use std::sync::MutexGuard;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::ConnectionManager;
use super::registry::State;
use crate::outbox::Outbox;

/// The maximum rest between two waves. A delivery waits for at most one wave and one rest.
const LONGEST_REST: Duration = Duration::from_millis(20);
/// The minimum rest. A shorter one is skipped, because timers have a resolution of one millisecond.
const SHORTEST_REST: Duration = Duration::from_millis(2);
/// The maximum time that a wave waits for the writers of the previous wave.
const LONGEST_WAVE: Duration = Duration::from_millis(50);

/// Ends the waves when it is dropped, even if the task is dropped in the middle of a wave.
struct Running<'a> {
    manager: &'a ConnectionManager,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.manager.state();
        state.due.gather(false);
        self.manager.wake(state);
    }
}

impl ConnectionManager {
    /// Wakes writers in waves until this future is dropped. While it does not run, each publish wakes the writers
    /// itself.
    pub async fn run_waves(&self) {
        self.state().due.gather(true);
        let _running = Running { manager: self };
        let runtime = Handle::current().metrics();
        loop {
            self.shared.published.notified().await;
            // Let publishers that are ready to run add their messages to this wave.
            tokio::task::yield_now().await;
            let wave = self.state().due.take();
            let began = Instant::now();
            wave.iter().for_each(Outbox::wake);
            drop(wave);
            // Wait until the writers have run. Most of them are in the queue that all threads of the runtime share.
            loop {
                tokio::task::yield_now().await;
                if runtime.global_queue_depth() == 0 || began.elapsed() > LONGEST_WAVE {
                    break;
                }
            }
            let rest = (began.elapsed() / 2).min(LONGEST_REST);
            if rest >= SHORTEST_REST {
                tokio::time::sleep_until(Instant::now() + rest).await;
            }
        }
    }

    /// The caller has put messages into outboxes. Wakes their writers now, or leaves it to the next wave.
    pub(super) fn wake(&self, mut state: MutexGuard<'_, State>) {
        let overdue = state.due.overdue();
        let due = !state.due.is_empty();
        drop(state);
        overdue.iter().for_each(Outbox::wake);
        if due {
            self.shared.published.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake, Waker};

    use slog::{Discard, Logger, o};

    use super::super::due::EARLY_BYTES;
    use super::super::{Connect, ManagerLimits};
    use super::*;
    use crate::log::{self, Log};
    use crate::message::{Draft, Payload};
    use crate::outbox::Receiver;
    use crate::topic::Topics;

    #[derive(Default)]
    struct WakeFlag(AtomicBool);

    impl Wake for WakeFlag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn manager() -> ConnectionManager {
        let topics: Topics = "odds_updates".parse().unwrap();
        let log = Log::new(1, &topics, log::LogLimits::default());
        ConnectionManager::new(topics, log, ManagerLimits::default(), Logger::root(Discard, o!()))
    }

    fn publish(manager: &ConnectionManager) {
        let data = serde_json::value::to_raw_value(&1).unwrap();
        manager.broadcast(Payload::new(data), &"odds_updates".parse().unwrap()).unwrap();
    }

    /// Empties the outbox and waits for an item, as a writer does. Returns a flag that is set when the writer is woken.
    fn waits(receiver: &mut Receiver) -> Arc<WakeFlag> {
        let woken = Arc::new(WakeFlag::default());
        while receiver.try_recv().is_some() {}
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pin!(receiver.ready()).poll(&mut Context::from_waker(&waker)).is_pending());
        woken
    }

    #[tokio::test]
    async fn publish_wakes_the_writer_without_waves() {
        let manager = manager();
        let (_connection, mut receiver) = manager.connect(Connect::all());
        let woken = waits(&mut receiver);
        publish(&manager);
        assert!(woken.0.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn next_wave_wakes_the_writer() {
        let manager = manager();
        let (_connection, mut receiver) = manager.connect(Connect::all());
        let mut waves = pin!(manager.run_waves());
        assert!(futures_util::poll!(waves.as_mut()).is_pending());
        let woken = waits(&mut receiver);
        publish(&manager);
        assert!(!woken.0.load(Ordering::Relaxed), "the wave waits for other publishers");
        while !woken.0.load(Ordering::Relaxed) {
            assert!(futures_util::poll!(waves.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn large_batch_wakes_writers_before_its_end() {
        let manager = manager();
        let (_connection, mut receiver) = manager.connect(Connect::all());
        let mut waves = pin!(manager.run_waves());
        assert!(futures_util::poll!(waves.as_mut()).is_pending());
        let draft = || {
            let data = serde_json::value::to_raw_value(&"x".repeat(1 << 10)).unwrap();
            Draft { topic: "odds_updates".parse().unwrap(), payload: Payload::new(data) }
        };
        for (messages, early) in [(EARLY_BYTES >> 11, false), (EARLY_BYTES >> 10, true)] {
            let woken = waits(&mut receiver);
            manager.publish(&vec![draft(); messages]).unwrap();
            assert_eq!(woken.0.load(Ordering::Relaxed), early, "{messages} messages");
        }
    }

    #[tokio::test]
    async fn dropped_waves_wake_the_writers_that_wait() {
        let manager = manager();
        let (_connection, mut receiver) = manager.connect(Connect::all());
        let woken = waits(&mut receiver);
        {
            let mut waves = pin!(manager.run_waves());
            assert!(futures_util::poll!(waves.as_mut()).is_pending());
            publish(&manager);
        }
        assert!(woken.0.load(Ordering::Relaxed));
    }
}

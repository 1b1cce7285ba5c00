//! Tells systemd when the server is ready, reloads and stops: the `sd_notify` protocol, for a unit with `Type=notify`.
//!
//! Does nothing without `NOTIFY_SOCKET` in the environment, which only a service manager sets.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;
use slog::{Logger, warn};
use tokio::time::{MissedTickBehavior, interval};

/// How often `announce` asks whether the engine is ready. An engine sends no event when it becomes ready.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The time to end the process after the server has cut the last connections at `drain-timeout`.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// The phase that the server last reported to systemd. Phases come in this order; `Ready` may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Stopping,
}

/// The service manager that started this process, if there is one.
pub(super) struct ServiceManager {
    logger: Logger,
    phase: Cell<Phase>,
}

impl ServiceManager {
    pub(super) fn new(logger: &Logger) -> Self {
        Self { logger: logger.clone(), phase: Cell::new(Phase::Starting) }
    }

    /// Sends `READY=1` once `starting` returns `None`. Until then `systemctl status` shows the text that `starting`
    /// returns.
    pub(super) async fn announce(&self, address: SocketAddr, starting: impl Fn() -> Option<String>) -> Infallible {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_reason = None;
        while self.phase.get() == Phase::Starting
            && let Some(reason) = starting()
        {
            if last_reason.as_ref() != Some(&reason) {
                self.send(&[NotifyState::Status(&one_line(&format!("starting: {reason}")))]);
                last_reason = Some(reason);
            }
            ticks.tick().await;
        }
        if self.phase.get() == Phase::Starting {
            self.phase.set(Phase::Ready);
            self.send(&[NotifyState::Ready, NotifyState::Status(&format!("serving on {address}"))]);
        }
        std::future::pending().await
    }

    /// Sends `RELOADING=1`, runs `reload`, and sends `READY=1`. During the start or the drain it sends neither message:
    /// `READY=1` would tell systemd that the start is over. systemd 253 and later require a time with `RELOADING=1`.
    pub(super) fn reload(&self, reload: impl FnOnce()) {
        if self.phase.get() != Phase::Ready {
            return reload();
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => self.report(&error),
        }
        reload();
        self.send(&[NotifyState::Ready]);
    }

    /// Sends `STOPPING=1` and asks systemd for as much time as the drain may take: the unit's `TimeoutStopSec` may be
    /// shorter.
    pub(super) fn stop(&self, drain_timeout: Duration) {
        self.phase.set(Phase::Stopping);
        let time = drain_timeout.saturating_add(STOP_MARGIN).as_micros();
        let time = NotifyState::ExtendTimeoutUsec(u32::try_from(time).unwrap_or(u32::MAX));
        self.send(&[NotifyState::Stopping, time, NotifyState::Status("draining")]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            self.report(&error);
        }
    }

    fn report(&self, error: &io::Error) {
        warn!(self.logger, "systemd.notify_failed"; "error" => %error);
    }
}

/// Replaces control characters: a line break would begin another field of the notification.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

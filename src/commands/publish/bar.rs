//! How far it is, on a terminal; elsewhere only what holds it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::{grouped, messages, say};

/// A bar on standard error, if that is a terminal. Copies are the same bar.
#[derive(Clone)]
pub(in crate::commands) struct Bar {
    drawn: ProgressBar,
    began: Instant,
    held_up: Arc<AtomicBool>,
    /// Whether there is somebody to say something to.
    silent: bool,
}

/// Drawn anew this often, so that the clock goes on while nothing comes.
const TICK: Duration = Duration::from_millis(250);

impl Bar {
    /// A bar up to `length`; without one it turns.
    pub(in crate::commands) fn new(length: Option<u64>) -> Self {
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:24} {percent:>3}%  {msg}"),
            None => (ProgressBar::no_length(), "{spinner} {msg}  {elapsed}"),
        };
        // Hidden where standard error is no terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(TICK);
        Self { drawn: bar, began: Instant::now(), held_up: Arc::default(), silent: false }
    }

    /// No bar at all, and nothing is said.
    pub(in crate::commands) fn none() -> Self {
        Self { drawn: ProgressBar::hidden(), began: Instant::now(), held_up: Arc::default(), silent: true }
    }

    /// This much of the input is done, with so many messages.
    pub(in crate::commands) fn reached(&self, position: u64, published: u64) {
        self.drawn.set_position(position);
        if !self.held_up.load(Ordering::Relaxed) {
            let left =
                self.drawn.length().map(|_| format!("  ETA {}", HumanDuration(self.drawn.eta()))).unwrap_or_default();
            self.drawn.set_message(self.rate(published) + &left);
        }
    }

    /// How many messages, and how fast.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "for people"
    )]
    fn rate(&self, published: u64) -> String {
        let rate = published as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        format!("{}, {}/s", messages(published), grouped(rate as u64))
    }

    /// Something is in the way: said once, until it is out of the way.
    pub(in crate::commands) fn held_up(&self, reason: &str) {
        if !self.held_up.swap(true, Ordering::Relaxed) {
            self.tell(&format!("oddswire: {reason}; trying again"));
            self.drawn.set_message("waiting for the server");
        }
    }

    /// It is out of the way.
    pub(in crate::commands) fn went_on(&self) {
        if self.held_up.swap(false, Ordering::Relaxed) {
            self.tell("oddswire: it goes on");
        }
    }

    /// Says something that stays, above the bar.
    pub(super) fn tell(&self, line: &str) {
        match (self.silent, self.drawn.is_hidden()) {
            (true, _) => {}
            (false, true) => say(line),
            (false, false) => self.drawn.println(line),
        }
    }

    /// Takes the bar away.
    pub(in crate::commands) fn finish(&self) {
        self.drawn.finish_and_clear();
    }
}

//! Shows a progress bar on a terminal. If standard error is not a terminal, prints only lines of text, such as delays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::{counted, grouped, say};

/// A bar on standard error, hidden if that is not a terminal. Clones share one bar.
#[derive(Clone)]
pub(in crate::commands) struct Bar {
    drawn: ProgressBar,
    began: Instant,
    held_up: Arc<AtomicBool>,
    /// Whether lines of text are suppressed, too.
    silent: bool,
}

/// Interval between redraws, so that the shown elapsed time changes even without progress.
const TICK: Duration = Duration::from_millis(250);

impl Bar {
    /// A bar that is full at `length`. Without a length, a spinner.
    pub(in crate::commands) fn new(length: Option<u64>) -> Self {
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:24} {percent:>3}%  {msg}"),
            None => (ProgressBar::no_length(), "{spinner} {msg}  {elapsed}"),
        };
        // indicatif hides the bar if standard error is not a terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(TICK);
        Self { drawn: bar, began: Instant::now(), held_up: Arc::default(), silent: false }
    }

    /// A bar that is never shown and prints no lines of text.
    pub(in crate::commands) fn none() -> Self {
        Self { drawn: ProgressBar::hidden(), began: Instant::now(), held_up: Arc::default(), silent: true }
    }

    /// Shows the progress: the `position` in the input, and the number of messages `published` so far.
    pub(in crate::commands) fn reached(&self, position: u64, published: u64) {
        self.drawn.set_position(position);
        if !self.held_up.load(Ordering::Relaxed) {
            let left =
                self.drawn.length().map(|_| format!("  ETA {}", HumanDuration(self.drawn.eta()))).unwrap_or_default();
            self.drawn.set_message(self.rate(published) + &left);
        }
    }

    /// A text with the number of messages and the messages per second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate for people needs no precision"
    )]
    fn rate(&self, published: u64) -> String {
        let rate = published as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        format!("{}, {}/s", counted(published, "message"), grouped(rate as u64))
    }

    /// Reports the reason for a delay. Further calls report nothing until [`Bar::went_on`] is called.
    pub(in crate::commands) fn held_up(&self, reason: &str, retry_for: Duration) {
        if !self.held_up.swap(true, Ordering::Relaxed) {
            let retry_for = humantime::format_duration(retry_for);
            self.tell(&format!("oddswire: {reason}; retrying for up to {retry_for}"));
            self.drawn.set_message("waiting for the server");
        }
    }

    /// Reports that the delay is over.
    pub(in crate::commands) fn went_on(&self) {
        if self.held_up.swap(false, Ordering::Relaxed) {
            self.tell("oddswire: the server takes messages again");
        }
    }

    /// Prints a line above the bar.
    pub(super) fn tell(&self, line: &str) {
        match (self.silent, self.drawn.is_hidden()) {
            (true, _) => {}
            (false, true) => say(line),
            (false, false) => self.drawn.println(line),
        }
    }

    /// Removes the bar from the terminal.
    pub(in crate::commands) fn finish(&self) {
        self.drawn.finish_and_clear();
    }
}

//! `oddswire publish`: publishes all messages of a file once, despite server restarts and broken connections.
//!
//! [`lines`] reads and checks lines, [`batch`] combines them into requests, [`publisher`] sends and retries requests,
//! [`bar`] shows the progress, and [`progress`] saves the progress for the next run.

mod bar;
mod batch;
pub(super) mod lines;
mod progress;
pub(super) mod publisher;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(super) use self::bar::Bar;
pub(super) use self::batch::Batch;
use oddswire::message::Position;
use tokio::sync::mpsc;

use self::batch::Batches;
use self::lines::Lines;
use self::progress::Progress;
use self::publisher::{NotTaken, Publisher};
use super::{Failure, counted, grouped, interrupted, print};
use crate::commands::settings::Publish;

/// The number of batches that are read ahead while another batch is being sent.
const READ_AHEAD: usize = 2;

/// What the server has taken so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) unchanged: u64,
    position: Option<Position>,
    /// The number of the last line that the server took. Before the first batch: the number of the last skipped line.
    line: u64,
    /// The line before which the server lost all messages in a restart.
    lost_before: Option<u64>,
}

impl Tally {
    /// Counts a batch that the server took. If the epoch changed, the server lost its earlier messages. Reports this
    /// loss; publishing continues.
    pub(super) fn add(&mut self, batch: &Batch, taken: &publisher::Taken, bar: &Bar) {
        let before = self.position.replace(taken.position);
        if before.is_some_and(|before| before.epoch != taken.position.epoch) {
            let line = batch.first_line();
            self.lost_before = Some(line);
            bar.tell(&format!("oddswire: {}", lost(line)));
        }
        self.messages += taken.accepted;
        self.unchanged += taken.unchanged;
        self.line = batch.last_line();
    }

    /// Prints the summary. Fails if the server lost earlier messages.
    pub(super) fn conclude(&self, took: Duration, more: &str) -> Result<(), Failure> {
        let none = if self.messages == 0 && self.line == 0 { "; the file has no messages" } else { "" };
        print(format!("{}{none}{more}\n", self.summary(took)))?;
        self.lost_before.map_or(Ok(()), |line| Err(Failure::Failed(lost(line))))
    }

    /// The summary after the last message.
    pub(super) fn summary(&self, took: Duration) -> String {
        let (messages, seconds) = (counted(self.messages, "message"), took.as_secs_f64());
        let unchanged = match self.unchanged {
            0 => String::new(),
            count => format!(", {} of them unchanged", grouped(count)),
        };
        let position = self.position.map_or_else(String::new, |position| format!("; the last position is {position}"));
        format!("{messages} published in {seconds:.1} s{unchanged}{position}")
    }
}

fn lost(line: u64) -> String {
    format!("the server restarted without its messages: those before line {line} are lost")
}

/// Publishes a file.
pub(super) async fn run(settings: Publish) -> Result<(), Failure> {
    let token = settings.target.token()?;
    let began = Instant::now();
    let progress = settings.progress.as_deref().map(|path| Progress::open(path, &settings)).transpose()?;
    let passed = progress.as_ref().map_or(settings.from_line as u64 - 1, Progress::line);
    let lines = Lines::open(&settings.file)?;
    let bar = Bar::new(lines.length());
    let mut tally = Tally { line: passed, ..Tally::default() };
    let mut publisher = Publisher::new(&settings.target, token, bar.clone())?;
    let mut run = Run { publisher: &mut publisher, progress, tally: &mut tally, bar: &bar };
    let ended = tokio::select! {
        ended = run.publish(lines, &settings) => ended,
        asked = interrupted() => Err(match asked {
            Ok(()) => Failure::Failed("interrupted".to_owned()),
            Err(failure) => failure,
        }),
    };
    bar.finish();
    match ended {
        Ok(()) => tally.conclude(began.elapsed(), ""),
        Err(failure) => Err(how_to_continue(failure, &tally, &settings)),
    }
}

/// Adds to the text of a failure which lines are published, and how to continue.
fn how_to_continue(failure: Failure, tally: &Tally, settings: &Publish) -> Failure {
    let reached = match (tally.line, tally.lost_before) {
        (0, _) => "nothing was published".to_owned(),
        (line, None) => format!("lines up to {line} are published"),
        (line, Some(first)) => format!("{}; lines {first} to {line} are published", lost(first)),
    };
    let next = match &settings.progress {
        Some(path) => format!("continue with --progress {}", path.display()),
        None => format!("continue with --from-line {}", tally.line + 1),
    };
    match failure {
        Failure::Usage(text) => Failure::Usage(text),
        Failure::Failed(text) => Failure::Failed(format!("{text}; {reached}; {next}")),
    }
}

struct Run<'a> {
    publisher: &'a mut Publisher,
    progress: Option<Progress>,
    tally: &'a mut Tally,
    bar: &'a Bar,
}

impl Run<'_> {
    async fn publish(&mut self, lines: Lines, settings: &Publish) -> Result<(), Failure> {
        let (read, mut batches) = mpsc::channel(READ_AHEAD);
        let source = Batches::new(lines, settings, self.tally.line);
        // Reading a pipe can block for an unlimited time, so the reader has its own thread.
        tokio::task::spawn_blocking(move || {
            for batch in source {
                if read.blocking_send(batch).is_err() {
                    return;
                }
            }
        });
        while let Some(batch) = batches.recv().await {
            self.deliver(batch?).await?;
        }
        self.progress.take().map_or(Ok(()), Progress::remove)
    }

    /// Publishes a batch. If the request is too large for the server, splits the batch and publishes both halves.
    async fn deliver(&mut self, batch: Batch) -> Result<(), Failure> {
        let mut parts = VecDeque::from([batch]);
        while let Some(part) = parts.pop_front() {
            let key = self.progress.as_ref().map(|progress| progress.key(&part));
            match self.publisher.deliver(&part, key).await {
                Ok(taken) => {
                    self.tally.add(&part, &taken, self.bar);
                    self.bar.reached(part.read_to(), self.tally.messages);
                    if let Some(progress) = &mut self.progress {
                        progress.reached(self.tally.line)?;
                    }
                }
                Err(NotTaken::TooLarge(_)) if part.len() > 1 => {
                    let (first, second) = part.halves();
                    parts.push_front(second);
                    parts.push_front(first);
                }
                Err(not_taken) => return Err(Failure::Failed(not_taken.to_string())),
            }
        }
        Ok(())
    }
}

//! `oddswire publish`: a file of messages, taken whole and once, through everything that a server and a network do.
//!
//! [`lines`] reads and checks, [`batch`] makes requests of what was read, [`publisher`] gets each taken, [`bar`] shows how
//! far that is, and [`progress`] remembers it for the next run.

mod bar;
mod batch;
pub(super) mod lines;
mod progress;
pub(super) mod publisher;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub(super) use self::bar::Bar;
pub(super) use self::batch::Batch;
use self::batch::Batches;
use self::lines::Lines;
use self::progress::Progress;
use self::publisher::{NotTaken, Publisher};
use super::{Failure, grouped, interrupted, messages, print};
use crate::config::commands::Publish;
use crate::message::Position;

/// Batches that are read ahead while one is under way.
const READ_AHEAD: usize = 2;

/// What was taken so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) unchanged: u64,
    position: Option<Position>,
    /// The last line that was taken; before the first, the last that is passed over.
    line: u64,
    /// The server began anew with this line, and what it had taken before is gone.
    anew_from: Option<u64>,
}

impl Tally {
    /// Counts a batch that was taken. A sequence that is another one than before is that of a server that forgot what it
    /// had taken: that is said, and everything else goes on.
    pub(super) fn add(&mut self, batch: &Batch, taken: &publisher::Taken, bar: &Bar) {
        let before = self.position.replace(taken.position);
        if before.is_some_and(|before| before.epoch != taken.position.epoch) {
            let line = batch.first_line();
            self.anew_from = Some(line);
            bar.tell(&format!("oddswire: {}", began_anew(line)));
        }
        self.messages += taken.accepted;
        self.unchanged += taken.unchanged;
        self.line = batch.last_line();
    }

    /// Says that all is taken; where not all of that is there any more, that is a failure.
    pub(super) fn conclude(&self, took: Duration, more: &str) -> Result<(), Failure> {
        let none = if self.messages == 0 && self.line == 0 { "; there was no message in it" } else { "" };
        print(format!("{}{none}{more}\n", self.summary(took)))?;
        self.anew_from.map_or(Ok(()), |line| Err(Failure::Failed(began_anew(line))))
    }

    /// What is said when all is taken.
    pub(super) fn summary(&self, took: Duration) -> String {
        let (messages, seconds) = (messages(self.messages), took.as_secs_f64());
        let unchanged = match self.unchanged {
            0 => String::new(),
            count => format!(", {} of them unchanged", grouped(count)),
        };
        let position = self.position.map_or_else(String::new, |position| format!("; the log stands at {position}"));
        format!("{messages} taken in {seconds:.1} s{unchanged}{position}")
    }
}

fn began_anew(line: u64) -> String {
    format!("the server began anew: what was taken before line {line} is gone")
}

/// Publishes a file to its end.
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
            Err(error) => Failure::Failed(format!("signals cannot be received: {error}")),
        }),
    };
    bar.finish();
    match ended {
        Ok(()) => tally.conclude(began.elapsed(), ""),
        Err(failure) => Err(how_to_go_on(failure, &tally, &settings)),
    }
}

/// Adds to a failure how far it came and how to go on.
fn how_to_go_on(failure: Failure, tally: &Tally, settings: &Publish) -> Failure {
    let reached = match (tally.line, tally.anew_from) {
        (0, _) => "nothing was taken".to_owned(),
        (line, None) => format!("lines up to {line} are taken"),
        (line, Some(first)) => format!("{}; lines {first} to {line} are taken", began_anew(first)),
    };
    let next = match &settings.progress {
        Some(path) => format!("go on with --progress {}", path.display()),
        None => format!("go on with --from-line {}", tally.line + 1),
    };
    match failure {
        Failure::Usage(text) => Failure::Usage(text),
        Failure::Failed(text) => Failure::Failed(format!("{text}; {reached}, {next}")),
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
        // A pipe may be quiet for as long as it likes, so it is read where nobody has to wait for it.
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

    /// Gets a batch taken; in halves where the server says that it is too large for one request.
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

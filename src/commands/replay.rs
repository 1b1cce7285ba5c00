//! `oddswire replay`: publishes recorded messages at the pace of the recording, or faster.
//!
//! The time to publish each line is computed from the time of the first line, so that delays do not add up.

use std::borrow::Cow;
use std::time::Duration;

use oddswire::topic::Topic;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::Instant;

use super::publish::lines::{Line, Lines};
use super::publish::publisher::Publisher;
use super::publish::{Bar, Batch, Tally};
use super::{Failure, interrupted};
use crate::commands::settings::{By, Replay, Speed};

/// The number of lines that are read ahead.
const READ_AHEAD: usize = 1024;
/// The maximum number of messages in one request.
const BATCH_MESSAGES: usize = 500;
/// The maximum length of a request body, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The maximum length of the messages in a recording that must be sorted, in bytes. Sorting holds all messages in
/// memory.
const MAX_SORTED_BYTES: usize = 1 << 30;

/// A line of a recording, ready to publish.
#[derive(Debug)]
struct Recorded {
    line: u64,
    /// Recorded time, in Unix milliseconds.
    at: i64,
    message: String,
    /// The position in the file that the progress bar shows after this line, in bytes.
    read_to: u64,
}

/// Replays a recording.
pub(super) async fn run(settings: Replay) -> Result<(), Failure> {
    let token = settings.target.token()?;
    let lines = Lines::open(&settings.file)?;
    let bar = Bar::new(lines.length());
    let publisher = Publisher::new(&settings.target, token, bar.clone())?;
    let recording = read(lines, &settings);
    let mut player = Player { publisher, recording, waiting: None, clock: None, tally: Tally::default(), bar };
    let began = Instant::now();
    let ended = tokio::select! {
        ended = player.play(settings.speed) => ended,
        asked = interrupted() => Err(match asked {
            Ok(()) => Failure::Failed(format!("interrupted after {}", player.tally.summary(began.elapsed()))),
            Err(failure) => failure,
        }),
    };
    player.bar.finish();
    ended?;
    let late = player.clock.map_or(Duration::ZERO, |clock| clock.latest);
    let punctual = match settings.speed {
        Speed::Max => String::new(),
        Speed::Times(_) => format!("; at most {:.1} s late", late.as_secs_f64()),
    };
    player.tally.conclude(began.elapsed(), &punctual)
}

/// Reads the recording in a separate thread. If the lines must be sorted, the thread reads all lines before it returns
/// the first line.
fn read(lines: Lines, settings: &Replay) -> Receiver<Result<Recorded, Failure>> {
    let (read, recording) = mpsc::channel(READ_AHEAD);
    let Replay { by, topic, kind, .. } = settings.clone();
    tokio::task::spawn_blocking(move || {
        let source = Source { lines, by, topic, kind };
        let recorded: Box<dyn Iterator<Item = _>> = match by {
            By::At => Box::new(source),
            By::SeenAt => match sorted(source) {
                Ok(sorted) => Box::new(sorted.into_iter().map(Ok)),
                Err(failure) => Box::new(std::iter::once(Err(failure))),
            },
        };
        for line in recorded {
            if read.blocking_send(line).is_err() {
                return;
            }
        }
    });
    recording
}

/// All lines sorted by time; lines with the same time keep their order. The file is already read, so the place of a
/// line in the list decides which progress the bar shows.
fn sorted(source: Source) -> Result<Vec<Recorded>, Failure> {
    let length = source.lines.length().unwrap_or(0);
    let mut bytes = 0;
    let within_bounds = source.map(|read| {
        let recorded = read?;
        bytes += recorded.message.len();
        if bytes > MAX_SORTED_BYTES {
            let most = bytesize::ByteSize(MAX_SORTED_BYTES as u64);
            return Err(Failure::Failed(format!(
                "the recording has more than {most}, which is too long to sort: use '--by=at', which keeps the order of the lines"
            )));
        }
        Ok(recorded)
    });
    let mut lines = within_bounds.collect::<Result<Vec<_>, _>>()?;
    lines.sort_by_key(|recorded| recorded.at);
    let count = lines.len() as u64;
    for (place, recorded) in (1..).zip(&mut lines) {
        recorded.read_to = length * place / count;
    }
    Ok(lines)
}

/// The lines of a recording.
struct Source {
    lines: Lines,
    by: By,
    topic: Topic,
    kind: Option<String>,
}

impl Iterator for Source {
    type Item = Result<Recorded, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(failure) => return Some(Err(failure)),
            };
            match self.recorded(&line) {
                Ok(Some(recorded)) => return Some(Ok(Recorded { read_to: self.lines.read_to(), ..recorded })),
                // The line has no topic, so it is not a message that can be published. Skip it.
                Ok(None) => {}
                Err(reason) => return Some(Err(Failure::Failed(format!("line {}: {reason}", line.number)))),
            }
        }
    }
}

/// A line of a recording, or of the output of `tail --json`. In that output, the recorded time is the message's
/// `timestamp`.
#[derive(Deserialize)]
#[serde(expecting = r#"{"at": time, "key": text, "data": value}"#)]
struct Entry<'a> {
    #[serde(borrow)]
    at: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Entry<'_> {
    /// Whether the line has no topic. `tail --json` prints such lines for broadcasts and messages about the connection.
    fn has_no_topic(&self) -> bool {
        self.at.is_none() && self.timestamp.is_some() && self.kind.is_some() && self.topic.is_none()
    }
}

impl Source {
    /// Parses a line; returns `None` if the line has no topic.
    fn recorded(&self, line: &Line) -> Result<Option<Recorded>, String> {
        #[derive(Deserialize)]
        struct Seen<'a> {
            #[serde(borrow)]
            seen_at: &'a RawValue,
        }
        let entry: Entry<'_> =
            serde_json::from_str(&line.text).map_err(|error| format!("invalid recorded message: {error}"))?;
        if entry.has_no_topic() {
            return Ok(None);
        }
        let at = match self.by {
            By::At => {
                let (name, at) = entry.at.map_or(("timestamp", entry.timestamp), |at| ("at", Some(at)));
                let at = at.ok_or_else(|| "invalid recorded message: missing field `at`".to_owned())?;
                let no_time = || format!("invalid time in '{name}': expected RFC 3339 or Unix milliseconds");
                moment(at.get()).ok_or_else(no_time)?
            }
            By::SeenAt => {
                let seen: Option<Seen<'_>> = serde_json::from_str(entry.data.get()).ok();
                let seen = seen.and_then(|seen| moment(seen.seen_at.get()));
                seen.ok_or_else(|| "invalid time in data.seen_at: expected RFC 3339 or Unix milliseconds".to_owned())?
            }
        };
        // The topic and type in a line override the command's `--topic` and `--type`.
        let topic = quoted(entry.topic.as_deref().unwrap_or(self.topic.as_str()));
        let kind = entry.kind.as_deref().or(self.kind.as_deref());
        let kind = kind.map(|kind| format!(r#","type":{}"#, quoted(kind))).unwrap_or_default();
        let key = entry.key.map(|key| format!(r#","key":{}"#, quoted(&key))).unwrap_or_default();
        let message = format!(r#"{{"topic":{topic}{kind}{key},"data":{}}}"#, entry.data.get());
        Ok(Some(Recorded { line: line.number, at, message, read_to: 0 }))
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serialises")
}

/// Parses RFC 3339 or Unix milliseconds into milliseconds.
fn moment(json: &str) -> Option<i64> {
    match serde_json::from_str(json).ok()? {
        serde_json::Value::Number(millis) => millis.as_i64(),
        serde_json::Value::String(text) => {
            let moment = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
            i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
        }
        _ => None,
    }
}

/// Converts recorded times to the times at which the lines are published.
struct Clock {
    /// When the first line was published.
    began: Instant,
    /// The recorded time of the first line, in Unix milliseconds.
    first: i64,
    /// The longest delay of a published line so far.
    latest: Duration,
}

impl Clock {
    /// When to publish a line. A line with an earlier time than the line before it is published at once.
    fn due(&self, recorded: &Recorded, speed: Speed) -> Instant {
        let Speed::Times(times) = speed else { return self.began };
        let since = u64::try_from(recorded.at.saturating_sub(self.first)).unwrap_or(0);
        let since = Duration::try_from_secs_f64(Duration::from_millis(since).as_secs_f64() / times);
        since.ok().and_then(|since| self.began.checked_add(since)).unwrap_or(self.began)
    }
}

struct Player {
    publisher: Publisher,
    recording: Receiver<Result<Recorded, Failure>>,
    /// A line that was read and is not due yet, or the error of an invalid line after valid ones.
    waiting: Option<Result<Recorded, Failure>>,
    clock: Option<Clock>,
    tally: Tally,
    bar: Bar,
}

impl Player {
    async fn play(&mut self, speed: Speed) -> Result<(), Failure> {
        while let Some(first) = self.next().await? {
            let now = Instant::now();
            let clock = self.clock.get_or_insert(Clock { began: now, first: first.at, latest: Duration::ZERO });
            let due = clock.due(&first, speed);
            tokio::time::sleep_until(due).await;
            clock.latest = clock.latest.max(Instant::now() - due);
            let (batch, read_to) = self.due(first, speed);
            let taken = self.publisher.deliver(&batch, None).await;
            let taken = taken.map_err(|not_taken| Failure::Failed(not_taken.to_string()))?;
            self.tally.add(&batch, &taken, &self.bar);
            self.bar.reached(read_to, self.tally.messages);
        }
        Ok(())
    }

    /// The next line. Waits until the line has been read.
    async fn next(&mut self) -> Result<Option<Recorded>, Failure> {
        match self.waiting.take() {
            Some(read) => read.map(Some),
            None => self.recording.recv().await.transpose(),
        }
    }

    /// A batch of `first` and the following lines that are due, have been read, and fit into one request.
    fn due(&mut self, first: Recorded, speed: Speed) -> (Batch, u64) {
        let now = Instant::now();
        let is_due = |recorded: &Recorded, clock: &Clock| speed == Speed::Max || clock.due(recorded, speed) <= now;
        let (mut batch, mut read_to) = (Batch::default(), first.read_to);
        batch.push(first.line, first.message);
        while let (Some(clock), Ok(read)) = (&self.clock, self.recording.try_recv()) {
            match read {
                Ok(recorded)
                    if is_due(&recorded, clock)
                        && !batch.is_full_for(&recorded.message, BATCH_MESSAGES, BATCH_BYTES) =>
                {
                    read_to = recorded.read_to;
                    batch.push(recorded.line, recorded.message);
                }
                later => {
                    self.waiting = Some(later);
                    break;
                }
            }
        }
        (batch, read_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_rfc_3339_or_unix_milliseconds() {
        assert_eq!(moment("1743511672980"), Some(1_743_511_672_980));
        assert_eq!(moment(r#""2026-08-04T17:54:32Z""#), Some(1_785_866_072_000));
        assert_eq!(moment(r#""2026-08-04T19:54:32.5+02:00""#), Some(1_785_866_072_500));
        for bad in ["null", r#""yesterday""#, "1.5", "{}"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }
}

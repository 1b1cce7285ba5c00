//! What is published, and when.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::dialect::Dialect;
use crate::message;
use crate::recording::Change;

/// How requests follow each other.
#[derive(Clone, Copy, PartialEq)]
pub enum Pace {
    /// Messages per second, at equal distances.
    Steady(f64),
    /// The next request follows when the one before it has been answered.
    Unpaced,
}

/// The messages of a phase.
#[derive(Clone)]
pub enum Source {
    /// Messages of so many bytes of data; the keys take turns.
    Synthetic { keys: u64, bytes: usize, pace: Pace, batch: usize },
    /// A recording, so many times as fast. Changes of one second are published together.
    Recorded { changes: Arc<Vec<Change>>, speed: u32 },
}

/// A sequence of requests, numbered from 0, that lasts for a time.
#[derive(Clone)]
pub struct Schedule {
    source: Source,
    lasts: Duration,
    /// The changes of each request of a recording.
    requests: Arc<Vec<Range<usize>>>,
}

/// A request of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// When it is due, counted from the start of the phase; `None` if at once.
    pub due: Option<Duration>,
    /// The numbers of its messages.
    pub messages: Range<usize>,
}

/// How many changes of a recording fit into a request.
const RECORDED_BATCH: usize = 100;

impl Schedule {
    pub fn new(source: Source, lasts: Duration, dialect: Dialect) -> Self {
        let requests = match &source {
            Source::Recorded { changes, .. } => {
                bursts(changes, if dialect.takes_batches() { RECORDED_BATCH } else { 1 })
            }
            Source::Synthetic { .. } => Vec::new(),
        };
        Self { source, lasts, requests: Arc::new(requests) }
    }

    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// The request with this number, or `None` once the time is over. Requests that are due at once never end by
    /// themselves.
    pub fn request(&self, number: usize) -> Option<Request> {
        let request = match &self.source {
            Source::Synthetic { pace, batch, .. } => {
                let first = number * batch;
                #[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^53 messages")]
                let due = match pace {
                    Pace::Steady(rate) => Some(Duration::from_secs_f64(first as f64 / rate)),
                    Pace::Unpaced => None,
                };
                Request { due, messages: first..first + batch }
            }
            Source::Recorded { changes, speed } => {
                let messages = self.requests.get(number)?.clone();
                Request { due: Some(changes.get(messages.start)?.at / *speed), messages }
            }
        };
        request.due.is_none_or(|due| due < self.lasts).then_some(request)
    }

    /// Writes the body of a request whose messages carry this time.
    pub fn write(&self, body: &mut String, dialect: Dialect, messages: Range<usize>, stamp: u64) {
        body.clear();
        for number in messages {
            if !body.is_empty() {
                body.push('\n');
            }
            match &self.source {
                Source::Synthetic { keys, bytes, .. } => {
                    let key = message::key(number as u64 % keys);
                    message::write(body, dialect, &key, &message::data(stamp, *bytes));
                }
                Source::Recorded { changes, .. } => {
                    let Change { key, data, .. } = &changes[number];
                    message::write(body, dialect, key, &message::stamped(stamp, data));
                }
            }
        }
    }
}

/// Splits a recording into the changes of one second each, and those into requests.
fn bursts(changes: &[Change], most: usize) -> Vec<Range<usize>> {
    let mut requests = Vec::new();
    let mut start = 0;
    for burst in changes.chunk_by(|one, next| one.at == next.at) {
        let end = start + burst.len();
        while start < end {
            let next = end.min(start + most);
            requests.push(start..next);
            start = next;
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(times: &[u64]) -> Arc<Vec<Change>> {
        let change =
            |&at: &u64| Change { at: Duration::from_secs(at), key: "a/b".to_owned(), data: "{\"x\":1}".to_owned() };
        Arc::new(times.iter().map(change).collect())
    }

    #[test]
    fn steady_requests_are_due_at_equal_distances_until_the_time_is_over() {
        let source = Source::Synthetic { keys: 3, bytes: 100, pace: Pace::Steady(20.0), batch: 2 };
        let schedule = Schedule::new(source, Duration::from_secs(1), Dialect::Oddswire);
        let third = Request { due: Some(Duration::from_millis(200)), messages: 4..6 };
        assert_eq!(schedule.request(2), Some(third));
        assert!(schedule.request(9).is_some() && schedule.request(10).is_none());
    }

    #[test]
    fn a_recording_keeps_its_bursts_and_runs_faster() {
        let source = Source::Recorded { changes: recording(&[0, 0, 0, 200, 500]), speed: 100 };
        let schedule = Schedule::new(source.clone(), Duration::from_secs(3), Dialect::Oddswire);
        assert_eq!(schedule.request(0), Some(Request { due: Some(Duration::ZERO), messages: 0..3 }));
        assert_eq!(schedule.request(1), Some(Request { due: Some(Duration::from_secs(2)), messages: 3..4 }));
        assert_eq!(schedule.request(2), None);
        let single = Schedule::new(source, Duration::from_secs(3), Dialect::Nchan);
        assert_eq!(single.request(1).map(|request| request.messages), Some(1..2));
    }

    #[test]
    fn a_body_has_a_message_a_line() {
        let source = Source::Synthetic { keys: 3, bytes: 100, pace: Pace::Unpaced, batch: 2 };
        let schedule = Schedule::new(source, Duration::from_secs(1), Dialect::Oddswire);
        let mut body = "old".to_owned();
        schedule.write(&mut body, Dialect::Oddswire, 2..4, 7);
        let keys: Vec<bool> = body.lines().zip(["e2/", "e0/"]).map(|(line, key)| line.contains(key)).collect();
        assert_eq!(keys, [true, true]);
    }
}

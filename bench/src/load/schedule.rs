//! The schedule of a phase: the messages to publish, and their times.

use std::ops::Range;
use std::time::Duration;

use crate::load::message;
use crate::server::dialect::Dialect;

/// The time between requests.
#[derive(Clone, Copy, PartialEq)]
pub enum Pace {
    /// Sends this number of messages a second, at equal intervals.
    Steady(f64),
    /// Sends the next request when the server has answered the previous one.
    Unpaced,
}

/// The messages of a phase. Successive messages have successive keys, and begin again after the last key.
#[derive(Clone, Copy)]
pub struct Source {
    pub keys: u64,
    /// The length of each message's data in bytes.
    pub bytes: usize,
    pub pace: Pace,
    /// The number of messages in a request.
    pub batch: usize,
}

/// A sequence of requests, numbered from 0. It ends after the time `lasts`.
#[derive(Clone, Copy)]
pub struct Schedule {
    source: Source,
    lasts: Duration,
}

/// A request of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The time at which the request is due, counted from the start of the phase. `None` means at once.
    pub due: Option<Duration>,
    /// The numbers of the messages in the request.
    pub messages: Range<usize>,
}

impl Schedule {
    pub fn new(source: Source, lasts: Duration) -> Self {
        Self { source, lasts }
    }

    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// The request with this number; `None` if the request would be due after the end of the schedule. With `Unpaced`,
    /// this function never returns `None`, so the publisher must check the time.
    pub fn request(&self, number: usize) -> Option<Request> {
        let Source { pace, batch, .. } = self.source;
        let first = number * batch;
        #[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^53 messages")]
        let due = match pace {
            Pace::Steady(rate) => Some(Duration::from_secs_f64(first as f64 / rate)),
            Pace::Unpaced => None,
        };
        let request = Request { due, messages: first..first + batch };
        request.due.is_none_or(|due| due < self.lasts).then_some(request)
    }

    /// Writes the body of a request. `stamp` is the time that each of the messages contains.
    pub fn write(&self, body: &mut String, dialect: Dialect, messages: Range<usize>, stamp: u64) {
        body.clear();
        for number in messages {
            if !body.is_empty() {
                body.push('\n');
            }
            let key = message::key(number as u64 % self.source.keys);
            message::write(body, dialect, &key, &message::data(stamp, self.source.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(pace: Pace) -> Schedule {
        Schedule::new(Source { keys: 3, bytes: 100, pace, batch: 2 }, Duration::from_secs(1))
    }

    #[test]
    fn steady_requests_have_equal_intervals_until_the_end() {
        let schedule = schedule(Pace::Steady(20.0));
        let third = Request { due: Some(Duration::from_millis(200)), messages: 4..6 };
        assert_eq!(schedule.request(2), Some(third));
        assert!(schedule.request(9).is_some() && schedule.request(10).is_none());
    }

    #[test]
    fn body_has_one_line_for_each_message() {
        let mut body = "old".to_owned();
        schedule(Pace::Unpaced).write(&mut body, Dialect::Oddswire, 2..4, 7);
        let keys: Vec<bool> = body.lines().zip(["e2/", "e0/"]).map(|(line, key)| line.contains(key)).collect();
        assert_eq!(keys, [true, true]);
    }
}

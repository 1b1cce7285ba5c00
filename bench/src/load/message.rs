//! The messages of a measurement. Each message contains the time at which it was due.

use std::fmt::Write as _;
use std::time::Instant;

use memchr::memmem;

use crate::server::dialect::{Dialect, TOPIC};

/// The text before the time in a message. This text occurs only once in a message.
const STAMP: &str = r#"{"bench_at":""#;

/// The number of digits of the time in a message. Leading zeros give all messages the same length.
const DIGITS: usize = 20;

/// Counts the nanoseconds since its creation. All copies of a clock show the same time.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub fn now(self) -> u64 {
        self.at(Instant::now())
    }

    pub fn at(self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Builds JSON that begins with the time and has `bytes` bytes, but at least about 40.
pub fn data(stamp: u64, bytes: usize) -> String {
    let mut text = format!(r#"{STAMP}{stamp:0DIGITS$}","pad":""#);
    let padding = bytes.saturating_sub(text.len() + 2);
    text.extend(std::iter::repeat_n('x', padding));
    text.push_str("\"}");
    text
}

/// Reads the time in a message; `None` for messages without a time, such as `connection_ack`.
pub fn stamp(text: &[u8]) -> Option<u64> {
    let start = memmem::find(text, STAMP.as_bytes())? + STAMP.len();
    let digits = text.get(start..start + DIGITS)?;
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Adds up the numbers of skipped messages in a `catch_up`. An unknown number (`null`) counts as 0.
pub fn skipped(text: &[u8]) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_slice(text).ok();
    let topics = value.as_ref().and_then(|value| value.pointer("/data/topics")?.as_object());
    topics.map_or(0, |topics| topics.values().filter_map(|topic| topic.get("skipped")?.as_u64()).sum())
}

/// Builds the key with this number. A key consists of an event, a market and a bookmaker.
pub fn key(number: u64) -> String {
    format!("e{number}/1x2/bench")
}

/// Appends one message to the body of a publish request. Oddswire adds an envelope for subscribers. Peers send the body
/// to subscribers as it is, so for peers this function adds an envelope of the same length.
pub fn write(body: &mut String, dialect: Dialect, key: &str, data: &str) {
    let written = if dialect == Dialect::Oddswire {
        write!(body, r#"{{"topic":"{TOPIC}","key":"{key}","type":"odds_update","data":{data}}}"#)
    } else {
        write!(
            body,
            r#"{{"type":"odds_update","topic":"{TOPIC}","id":"1763849000000-100000","key":"{key}","timestamp":"2026-02-06T19:00:00.000Z","data":{data}}}"#
        )
    };
    written.expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_reads_back_from_a_message() {
        let data = data(42, 200);
        assert_eq!(data.len(), 200);
        let mut body = String::new();
        write(&mut body, Dialect::Oddswire, &key(7), &data);
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{body}");
        assert_eq!(stamp(body.as_bytes()), Some(42));
    }

    #[test]
    fn other_messages_have_no_time() {
        for text in [r#"{"type":"pong"}"#, r#"{"bench_at":"12"#, r#"{"bench_at":"0000000000000000000x"}"#] {
            assert_eq!(stamp(text.as_bytes()), None, "{text}");
        }
    }
}

//! Publishes each batch once. Retries if the server is unreachable or busy, or if the connection breaks.

use std::fmt;
use std::time::{Duration, Instant};

use http::StatusCode;
use oddswire::config::Token;
use oddswire::message::Position;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Bar, Batch};
use crate::commands::backoff::Backoff;
use crate::commands::client::{Client, RefusedRequest};
use crate::commands::settings::Target;
use crate::dial::{Dialer, TlsError};

/// The server's answer to a batch that it took.
#[derive(Debug, Deserialize)]
pub(in crate::commands) struct Taken {
    pub(super) accepted: u64,
    pub(super) unchanged: u64,
    #[serde(deserialize_with = "position")]
    pub(super) position: Position,
}

fn position<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Why the server did not take a batch.
#[derive(Debug)]
pub(in crate::commands) enum NotTaken {
    /// The request is longer than the server allows.
    TooLarge(String),
    /// The server refuses the batch. A retry would be refused too.
    Refused(String),
    /// The retries took longer than `retry_for`. The server may have taken the batch, because an answer can be lost.
    GaveUp { after: Duration, retry_for: Duration, reason: String },
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(reason) | Self::Refused(reason) => f.write_str(reason),
            Self::GaveUp { after, retry_for, reason } => {
                let (after, retry_for) = (after.as_secs_f64(), humantime::format_duration(*retry_for));
                write!(f, "gave up after {after:.1} s, because --retry-for is {retry_for}: {reason}")
            }
        }
    }
}

/// Publishes to one server.
pub(in crate::commands) struct Publisher {
    client: Client,
    retry_for: Duration,
    bar: Bar,
    /// Prefix of the `Idempotency-Key`s of this run.
    run: String,
    requests: u64,
}

impl Publisher {
    pub(in crate::commands) fn new(target: &Target, token: Token, bar: Bar) -> Result<Self, TlsError> {
        let client = Client::new(Dialer::new(target.url.clone())?, Some(token));
        Ok(Self { client, retry_for: target.retry_for, bar, run: run_name(), requests: 0 })
    }

    /// Publishes a batch, and retries until the server takes it. `key` is the `Idempotency-Key`; it must be given if a
    /// later run may repeat the batch. Otherwise the publisher makes one.
    pub(in crate::commands) async fn deliver(&mut self, batch: &Batch, key: Option<String>) -> Result<Taken, NotTaken> {
        self.requests += 1;
        let key = key.unwrap_or_else(|| format!("{}-{}", self.run, self.requests));
        let body = batch.body();
        let mut backoff = Backoff::default();
        let began = Instant::now();
        loop {
            let (reason, asked) = match self.client.post_lines("/api/publish", &key, body.clone()).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    self.bar.went_on();
                    return serde_json::from_slice(&answer.body).map_err(|error| {
                        NotTaken::Refused(format!("the answer is not from an oddswire server: {error}"))
                    });
                }
                Ok(answer) => {
                    let refusal = RefusedRequest::of(answer.status, &answer.headers, &answer.body);
                    if !refusal.is_temporary() {
                        return Err(refused(&refusal, batch));
                    }
                    (format!("the server answered {refusal}"), refusal.retry_after)
                }
                Err(error) if error.is_lasting() => return Err(NotTaken::Refused(error.to_string())),
                Err(error) => (error.to_string(), None),
            };
            let wait = backoff.next(asked);
            if began.elapsed() + wait > self.retry_for {
                return Err(NotTaken::GaveUp { after: began.elapsed(), retry_for: self.retry_for, reason });
            }
            self.bar.held_up(&reason, self.retry_for);
            tokio::time::sleep_until((Instant::now() + wait).into()).await;
        }
    }
}

/// A random name for this run.
pub(super) fn run_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn refused(refusal: &RefusedRequest, batch: &Batch) -> NotTaken {
    let line = refusal.index.and_then(|index| batch.line(index));
    let reason = match line {
        Some(line) => format!("line {line}: the server answered {refusal}"),
        None => format!("the server answered {refusal}"),
    };
    // If one message is too large, the answer contains the message's index. If the whole request is too large, the
    // answer contains no index.
    if refusal.status == StatusCode::PAYLOAD_TOO_LARGE && line.is_none() {
        return NotTaken::TooLarge(reason);
    }
    NotTaken::Refused(reason)
}

//! Gets a batch taken, once: through a server that is away or busy, and connections that break.

use std::fmt;
use std::time::{Duration, Instant};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Bar, Batch};
use crate::auth::Token;
use crate::commands::Failure;
use crate::commands::backoff::Backoff;
use crate::commands::client::{Client, Refusal};
use crate::commands::dial::Dialer;
use crate::config::commands::Target;
use crate::message::Position;
use http::StatusCode;

/// What the server says of a batch that it took.
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

/// Why a batch is not taken.
#[derive(Debug)]
pub(in crate::commands) enum NotTaken {
    /// The request is longer than the server takes.
    TooLarge(String),
    /// The server refuses it, and would again.
    Refused(String),
    /// It was tried for as long as it should be. Whether the last attempt was taken is not known.
    GaveUp { after: Duration, retry_for: Duration, reason: String },
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(reason) | Self::Refused(reason) => f.write_str(reason),
            Self::GaveUp { after, retry_for, reason } => {
                let (after, retry_for) = (after.as_secs_f64(), humantime::format_duration(*retry_for));
                write!(f, "given up after {after:.1} s, since --retry-for is {retry_for}: {reason}")
            }
        }
    }
}

/// A publisher of one server.
pub(in crate::commands) struct Publisher {
    client: Client,
    retry_for: Duration,
    bar: Bar,
    /// What the keys of this run's requests begin with.
    run: String,
    requests: u64,
}

impl Publisher {
    pub(in crate::commands) fn new(target: &Target, token: Token, bar: Bar) -> Result<Self, Failure> {
        let dialer = Dialer::new(target.url.clone()).map_err(|error| Failure::Failed(error.to_string()))?;
        let run = run_name();
        Ok(Self { client: Client::new(dialer, Some(token)), retry_for: target.retry_for, bar, run, requests: 0 })
    }

    /// Publishes a batch and waits until it is taken. `key` is its `Idempotency-Key`, where somebody else may try again.
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
                    return serde_json::from_slice(&answer.body)
                        .map_err(|error| NotTaken::Refused(format!("the answer is not oddswire's: {error}")));
                }
                Ok(answer) => {
                    let refusal = Refusal::of(answer.status, &answer.headers, &answer.body);
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
            self.bar.held_up(&reason);
            tokio::time::sleep_until((Instant::now() + wait).into()).await;
        }
    }
}

/// A name that no other run has.
pub(super) fn run_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn refused(refusal: &Refusal, batch: &Batch) -> NotTaken {
    let line = refusal.index.and_then(|index| batch.line(index));
    let reason = match line {
        Some(line) => format!("line {line}: the server answered {refusal}"),
        None => format!("the server answered {refusal}"),
    };
    // One message that is too large is named; a request that is too large has no such message.
    if refusal.status == StatusCode::PAYLOAD_TOO_LARGE && line.is_none() {
        return NotTaken::TooLarge(reason);
    }
    NotTaken::Refused(reason)
}

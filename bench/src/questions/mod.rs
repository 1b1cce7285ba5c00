//! The questions, with one file for each. A question has cases. The answer is a comparison of these cases, or of
//! servers.

pub mod connect;
pub mod delivery;
pub mod engines;
pub mod group_commit;
pub mod growth;
pub mod idle;
pub mod ingest;
pub mod narrow;
pub mod pipes;
pub mod retained;
pub mod sessions;
pub mod slow;

use clap::ValueEnum;

use crate::case::{Case, Scale};

/// A question whose measurements start server processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Memory of each of 15,000 idle connections
    Idle,
    /// Handshakes per second, 200 at a time
    Connect,
    /// Deliveries: 1,000 subscribers, 100 messages a second of 200 bytes
    Light,
    /// Deliveries: 1,000 subscribers, 20 messages a second of 200 bytes, also with `FastAPI`
    Gentle,
    /// Deliveries: 5,000 subscribers, 50 messages a second of 500 bytes
    Wide,
    /// Deliveries: 200 subscribers, messages of 200 bytes as fast as the server takes them
    Hot,
    /// 5 subscribers of one event, alone and among 10,000 subscribers of 2,000 events
    Narrow,
    /// 900 subscribers, alone and with 100 that never read
    Slow,
    /// Publishes per second in batches of 100, without subscribers
    Ingest,
    /// Memory of each of 100,000 keys of 400 bytes
    Retained,
    /// 40,000 deliveries a second to 1,000 and up to 19,000 subscribers
    Growth,
    /// Deliveries and publishes in memory, with the journal, and with Redis and 1, 2 and 3 nodes
    Engines,
}

impl Question {
    /// The questions of the gate.
    pub const QUICK: &[Self] = &[Self::Idle, Self::Retained, Self::Light];

    pub fn cases(self, scale: &Scale) -> Vec<Case> {
        match self {
            Self::Idle => idle::cases(scale),
            Self::Connect => connect::cases(scale),
            Self::Light => delivery::light(scale),
            Self::Gentle => delivery::gentle(scale),
            Self::Wide => delivery::wide(scale),
            Self::Hot => delivery::hot(scale),
            Self::Narrow => narrow::cases(scale),
            Self::Slow => slow::cases(scale),
            Self::Ingest => ingest::cases(scale),
            Self::Retained => retained::cases(scale),
            Self::Growth => growth::cases(scale),
            Self::Engines => engines::cases(scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_names_begin_with_the_name_of_the_question() {
        let scale = Scale { quick: true, publishers: 1, broker: true, ..Scale::default() };
        for question in Question::value_variants() {
            let value = question.to_possible_value().expect("no question is hidden");
            let cases = question.cases(&scale);
            assert!(!cases.is_empty());
            for case in cases {
                assert_eq!(case.name.split('-').next(), Some(value.get_name()));
            }
        }
    }

    #[test]
    fn redis_cases_need_redis() {
        let scale = Scale { publishers: 1, broker: false, ..Scale::default() };
        assert!(Question::Engines.cases(&scale).iter().all(|case| !case.deployment.has_broker()));
    }
}

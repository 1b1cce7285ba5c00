//! What is measured: the scenarios, and the cases that each consists of.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::case::{Case, Fanout, Interest, Kind};
use crate::deployment::Deployment;
use crate::dialect::{Dialect, Transport};
use crate::recording::{self, Change};
use crate::schedule::{Pace, Source};

/// The peers that publish to everybody. `FastAPI` is left to the scenario whose rate it can keep up with.
const FAST: &[Dialect] = &[Dialect::Oddswire, Dialect::StockWarp, Dialect::Nchan];
const ALL: &[Dialect] = &[Dialect::Oddswire, Dialect::StockWarp, Dialect::Nchan, Dialect::FastApi];
const OURS: &[Dialect] = &[Dialect::Oddswire];

/// How many keys the recorded odds have.
const RECORDED_KEYS: u64 = 3_260;

/// How many bytes the data of a recorded key has, about.
const RECORDED_BYTES: usize = 400;

/// How many keys synthetic messages have, where their number is of no interest.
const KEYS: u64 = 100;

/// How long messages are published in `slow` at least: the socket buffers of the kernel fill before the outbox does.
const SLOW_LASTS: Duration = Duration::from_secs(10);

/// A question, answered by the comparison of its cases or servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Memory of each of 15,000 connections
    Idle,
    /// Handshakes per second, 200 at a time
    Connect,
    /// 1,000 subscribers, 100 messages a second of 200 bytes
    Light,
    /// 1,000 subscribers, 20 messages a second of 200 bytes, also with `FastAPI`
    Gentle,
    /// 5,000 subscribers, 50 messages a second of 500 bytes
    Wide,
    /// 200 subscribers, published as fast as it is taken, 200 bytes
    Hot,
    /// 10,000 subscribers of 2,000 events, 5,000 messages a second
    Narrow,
    /// 5,000 clients at once that want the state of 3,260 keys
    Image,
    /// 1,000 subscribers of which 100 never read, and the same without those
    Slow,
    /// Publishes per second, single and in batches of 100, with 0 and with 10 subscribers
    Ingest,
    /// The recorded odds, 100 times as fast
    Replay,
    /// Memory of each of 100,000 keys of 400 bytes
    Retained,
    /// 40,000 deliveries a second to 1,000 and up to 19,000 subscribers
    Growth,
    /// Memory, journal, and Redis with 1, 2 and 3 nodes: light, deliveries and publishes as fast as they are taken
    Engines,
}

/// The sizes of the scenarios: as they are meant, or small enough for a run of all of them within minutes.
#[derive(Clone, Default)]
pub struct Scale {
    pub quick: bool,
    pub lasts: Duration,
    /// In place of the number of subscribers that a scenario has.
    pub subscribers: Option<u32>,
    /// In place of the messages a second that a scenario has.
    pub rate: Option<u32>,
    /// The connections that publish in `hot`.
    pub publishers: u32,
    /// The outbox of a connection in `slow`, in bytes.
    pub outbox: u32,
    /// The recorded odds, where they are at hand.
    pub recording: Option<Arc<Vec<Change>>>,
    /// Whether there is a broker to start.
    pub broker: bool,
}

impl Scale {
    /// A number of connections that has a meaning of its own.
    fn connections(&self, number: u32) -> u32 {
        if self.quick { number / 10 } else { number }
    }

    /// The number of subscribers where another one would be as good a question.
    fn subscribers(&self, number: u32) -> u32 {
        self.subscribers.unwrap_or_else(|| self.connections(number))
    }

    fn rate(&self, per_second: u32) -> f64 {
        f64::from(self.rate.unwrap_or(per_second))
    }

    /// Tells cases of other sizes apart from those that have the scenario's.
    fn suffix(&self) -> String {
        let part = |name: &str, value: Option<u32>| value.map(|value| format!("-{value}{name}")).unwrap_or_default();
        part("n", self.subscribers) + &part("hz", self.rate)
    }
}

impl Scenario {
    /// The cases for a transport; none where the scenario has nothing to do with it.
    pub fn cases(self, transport: Transport, scale: &Scale) -> Result<Vec<Case>> {
        let n = |number| scale.subscribers(number);
        // Not a tenth of them in a quick run, which would say more of the publish than of the deliveries.
        let thousand = scale.subscribers.unwrap_or(1_000);
        let case = |kind, servers| Case {
            name: format!("{}{}-{}", self.name(), scale.suffix(), transport.name()),
            transport,
            kind,
            servers,
            arguments: Vec::new(),
            deployment: Deployment::Memory,
        };
        let everybody = |readers, rate, bytes| {
            Kind::Fanout(fanout(readers, synthetic(KEYS, bytes, Pace::Steady(scale.rate(rate))), scale.lasts))
        };
        Ok(match self {
            Self::Idle => vec![case(Kind::Idle { connections: n(15_000) }, ALL)],
            Self::Connect => vec![case(Kind::Connect { total: scale.connections(20_000), concurrent: 200 }, ALL)],
            Self::Light => vec![case(everybody(thousand, 100, 200), FAST)],
            Self::Gentle => vec![case(everybody(thousand, 20, 200), ALL)],
            Self::Wide => vec![case(everybody(n(5_000), 50, 500), FAST)],
            Self::Hot => {
                let readers = scale.subscribers.unwrap_or(200);
                let load = fanout(readers, synthetic(KEYS, 200, Pace::Unpaced), scale.lasts);
                vec![case(Kind::Fanout(Fanout { publishers: scale.publishers, ..load }), FAST)]
            }
            Self::Image => vec![case(Kind::Image { clients: n(5_000), state: image_state(scale) }, OURS)],
            Self::Narrow => narrow(transport, scale)?,
            Self::Slow => slow(transport, scale),
            Self::Ingest => ingest(transport, scale),
            Self::Replay => replay(transport, scale),
            Self::Retained => retained(transport, scale),
            Self::Growth => growth(transport, scale),
            Self::Engines => engines(transport, scale),
        })
    }

    /// What the gate compares.
    pub const QUICK: &[Self] = &[Self::Idle, Self::Retained, Self::Light];

    /// The name on the command line and in the results.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn synthetic(keys: u64, bytes: usize, pace: Pace) -> Source {
    Source::Synthetic { keys, bytes, pace, batch: 1 }
}

/// One publishing connection and subscribers of everything.
fn fanout(readers: u32, source: Source, lasts: Duration) -> Fanout {
    Fanout { readers, deaf: 0, interest: Interest::All, source, lasts, publishers: 1 }
}

fn image_state(scale: &Scale) -> Arc<Vec<(String, String)>> {
    let synthetic = || recording::synthetic_state(RECORDED_KEYS, RECORDED_BYTES);
    Arc::new(scale.recording.as_ref().map_or_else(synthetic, |changes| recording::last_state(changes)))
}

/// The load spread over all events; one of the events alone; and that one where there are no others. The last two differ
/// only in the other events' subscribers, so their comparison shows what those cost.
fn narrow(transport: Transport, scale: &Scale) -> Result<Vec<Case>> {
    let events = u64::from(scale.connections(2_000));
    let readers = scale.connections(10_000);
    ensure!(u64::from(readers) > events, "there are too few subscribers");
    let of_each = u32::try_from(u64::from(readers) / events)?;
    let load = |readers, events, published| {
        let source = synthetic(published, 200, Pace::Steady(5_000.0));
        let interest = Interest::Events(events);
        Kind::Fanout(Fanout { interest, publishers: 4, ..fanout(readers, source, scale.lasts) })
    };
    let case = |name: &str, kind| Case {
        name: format!("{name}-{}", transport.name()),
        transport,
        kind,
        servers: OURS,
        arguments: Vec::new(),
        deployment: Deployment::Memory,
    };
    Ok(vec![
        case("narrow", load(readers, events, events)),
        case("narrow-one-of-many", load(readers, events, 1)),
        case("narrow-only-one", load(of_each, 1, 1)),
    ])
}

/// The outbox is small enough for the slow ones to be left behind within seconds.
fn slow(transport: Transport, scale: &Scale) -> Vec<Case> {
    let readers = scale.connections(900);
    let lasts = scale.lasts.max(SLOW_LASTS);
    let case = |name: &str, deaf| {
        let source = synthetic(KEYS, 200, Pace::Steady(100.0));
        Case {
            name: format!("{name}-{}", transport.name()),
            transport,
            kind: Kind::Fanout(Fanout { deaf, ..fanout(readers, source, lasts) }),
            servers: OURS,
            arguments: vec!["--outbox-bytes".to_owned(), scale.outbox.to_string()],
            deployment: Deployment::Memory,
        }
    };
    vec![case("slow", scale.connections(100)), case("slow-without", 0)]
}

fn ingest(transport: Transport, scale: &Scale) -> Vec<Case> {
    let case = |name: &str, batch, readers| {
        let source = Source::Synthetic { keys: 10_000, bytes: 200, pace: Pace::Unpaced, batch };
        Case {
            name: format!("ingest-{name}-{readers}-{}", transport.name()),
            transport,
            kind: Kind::Fanout(Fanout { publishers: 4, ..fanout(readers, source, scale.lasts) }),
            servers: OURS,
            arguments: Vec::new(),
            deployment: Deployment::Memory,
        }
    };
    let of = |readers| [case("single", 1, readers), case("batch", 100, readers)];
    // Without subscribers the transport makes no difference.
    let alone = if transport == Transport::Ws { Vec::from(of(0)) } else { Vec::new() };
    alone.into_iter().chain(of(10)).collect()
}

fn replay(transport: Transport, scale: &Scale) -> Vec<Case> {
    let Some(changes) = scale.recording.clone() else { return Vec::new() };
    let source = Source::Recorded { changes, speed: 100 };
    // Its bursts are minutes apart, so that a few seconds would show only the first one.
    let lasts = scale.lasts * 3;
    let kind = Kind::Fanout(fanout(scale.connections(1_000), source, lasts));
    vec![Case {
        name: format!("replay-{}", transport.name()),
        transport,
        kind,
        servers: FAST,
        arguments: Vec::new(),
        deployment: Deployment::Memory,
    }]
}

fn retained(transport: Transport, scale: &Scale) -> Vec<Case> {
    if transport != Transport::Ws {
        return Vec::new();
    }
    let keys = Arc::new(recording::synthetic_state(u64::from(scale.connections(100_000)), RECORDED_BYTES));
    let case = |name: &str, arguments: &[&str]| Case {
        name: name.to_owned(),
        transport,
        kind: Kind::Retained { keys: Arc::clone(&keys) },
        servers: OURS,
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        deployment: Deployment::Memory,
    };
    vec![case("retained", &[]), case("retained-without-history", &["--history-messages", "0"])]
}

/// The deliveries a second stay the same, so that the more connections there are, the fewer messages are published: what
/// changes is only how many connections the deliveries are spread over. It is a rate that leaves the server idle most
/// of the time; a queue would tell of its length and not of the connections.
fn growth(transport: Transport, scale: &Scale) -> Vec<Case> {
    const DELIVERIES_PER_S: f64 = 40_000.0;
    /// The last one is as many as fit into a limit of 20,000 open files.
    const SUBSCRIBERS: [u32; 5] = [1_000, 2_000, 5_000, 10_000, 19_000];
    if transport != Transport::Ws {
        return Vec::new();
    }
    let case = |number| {
        let readers = scale.connections(number);
        let source = synthetic(KEYS, 200, Pace::Steady(DELIVERIES_PER_S / f64::from(readers)));
        Case {
            name: format!("growth-{readers}-{}", transport.name()),
            transport,
            kind: Kind::Fanout(fanout(readers, source, scale.lasts)),
            servers: OURS,
            arguments: Vec::new(),
            deployment: Deployment::Memory,
        }
    };
    SUBSCRIBERS.into_iter().map(case).collect()
}

/// The same loads on each engine. With several nodes the subscribers and the publishers are spread over them; the
/// processor time is that of all nodes and the broker. What one publisher gets from the journal is what a sync for each
/// publish leaves; the others share one.
fn engines(transport: Transport, scale: &Scale) -> Vec<Case> {
    use Deployment::{Journal, Memory, Redis};
    if transport != Transport::Ws {
        return Vec::new();
    }
    let case = |load: &str, deployment: Deployment, readers, publishers, source| Case {
        name: format!("engines-{load}-{}", deployment.name()),
        transport,
        kind: Kind::Fanout(Fanout { publishers, ..fanout(readers, source, scale.lasts) }),
        servers: OURS,
        arguments: Vec::new(),
        deployment,
    };
    let unpaced = |batch| Source::Synthetic { keys: 10_000, bytes: 200, pace: Pace::Unpaced, batch };
    let all = [Memory, Journal, Redis(1), Redis(2), Redis(3)];
    let here = || all.into_iter().filter(|deployment| scale.broker || !deployment.has_broker());
    let light = here().map(|on| case("light", on, 1_000, 1, synthetic(KEYS, 200, Pace::Steady(100.0))));
    let hot = here().map(|on| case("hot", on, 200, 8, unpaced(1)));
    let single = here().map(|on| case("single-64", on, 0, 64, unpaced(1)));
    let batch = here().map(|on| case("batch", on, 0, 4, unpaced(100)));
    let alone = case("single-1", Journal, 0, 1, unpaced(1));
    light.chain(hot).chain(single).chain([alone]).chain(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scenario: Scenario, transport: Transport) -> Vec<String> {
        let scale = Scale { quick: true, publishers: 1, ..Scale::default() };
        let cases = scenario.cases(transport, &scale).expect("the scenario is possible");
        cases.into_iter().map(|case| case.name).collect()
    }

    #[test]
    fn cases_are_named_after_scenario_and_transport() {
        assert_eq!(names(Scenario::Light, Transport::Sse), ["light-sse"]);
        assert_eq!(names(Scenario::Slow, Transport::Ws), ["slow-ws", "slow-without-ws"]);
        assert_eq!(names(Scenario::Ingest, Transport::Sse), ["ingest-single-10-sse", "ingest-batch-10-sse"]);
    }

    #[test]
    fn what_needs_the_recording_is_left_out_without_it() {
        assert!(names(Scenario::Replay, Transport::Ws).is_empty());
        assert_eq!(names(Scenario::Image, Transport::Ws), ["image-ws"]);
    }
}

//! How much processor time does a delivery take, and how late does it arrive?
//!
//! Each subscriber gets every message. The four loads differ in the number of subscribers, the rate and the length of
//! messages.

use crate::case::{ALL, Case, FAST, KEYS, Scale};
use crate::load::fanout::Fanout;
use crate::load::schedule::{Pace, Source};

fn source(bytes: usize, pace: Pace) -> Source {
    Source { keys: KEYS, bytes, pace, batch: 1 }
}

/// A moderate load. A quick run has the same number of subscribers: with fewer, the figures would measure publishes
/// rather than deliveries.
pub fn light(scale: &Scale) -> Vec<Case> {
    vec![Case::fanout("light", FAST, Fanout::to_all(1_000, source(200, Pace::Steady(100.0)), scale.lasts))]
}

/// A low rate, which even `FastAPI` can deliver in time.
pub fn gentle(scale: &Scale) -> Vec<Case> {
    vec![Case::fanout("gentle", ALL, Fanout::to_all(1_000, source(200, Pace::Steady(20.0)), scale.lasts))]
}

/// A load with more subscribers and larger messages.
pub fn wide(scale: &Scale) -> Vec<Case> {
    let readers = scale.part_of(5_000);
    vec![Case::fanout("wide", FAST, Fanout::to_all(readers, source(500, Pace::Steady(50.0)), scale.lasts))]
}

/// The greatest possible rate. Each publisher sends its next message when the server has answered the previous one.
pub fn hot(scale: &Scale) -> Vec<Case> {
    let load = Fanout::to_all(200, source(200, Pace::Unpaced), scale.lasts);
    vec![Case::fanout("hot", FAST, Fanout { publishers: scale.publishers, ..load })]
}

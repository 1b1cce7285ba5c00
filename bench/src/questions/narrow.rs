//! Does a publish to one event become more expensive when there are subscribers of other events?

use crate::case::{Case, OURS, Scale};
use crate::load::fanout::{Fanout, Interest};
use crate::load::schedule::{Pace, Source};

/// The number of subscribers of each event.
const OF_EACH: u32 = 5;

/// All messages go to one event. The two cases differ only in the number of subscribers of other events.
pub fn cases(scale: &Scale) -> Vec<Case> {
    let load = |events: u32| {
        let source = Source { keys: 1, bytes: 200, pace: Pace::Steady(5_000.0), batch: 1 };
        let interest = Interest::Events(u64::from(events));
        Fanout { interest, publishers: 4, ..Fanout::to_all(OF_EACH * events, source, scale.lasts) }
    };
    vec![
        Case::fanout("narrow-one-of-many", OURS, load(scale.part_of(2_000))),
        Case::fanout("narrow-only-one", OURS, load(1)),
    ]
}

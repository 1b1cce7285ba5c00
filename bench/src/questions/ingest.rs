//! How many messages can publishers send in a second, in batches?

use crate::case::{Case, OURS, Scale};
use crate::load::fanout::Fanout;
use crate::load::schedule::{Pace, Source};

/// The cases have no subscribers, so that the server only takes publishes.
pub fn cases(scale: &Scale) -> Vec<Case> {
    let source = Source { keys: 10_000, bytes: 200, pace: Pace::Unpaced, batch: 100 };
    vec![Case::fanout("ingest", OURS, Fanout { publishers: 4, ..Fanout::to_all(0, source, scale.lasts) })]
}

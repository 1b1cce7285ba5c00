//! Do clients that never read delay the other clients, and how much memory do they take?

use std::time::Duration;

use crate::case::{Case, KEYS, OURS, Scale};
use crate::load::fanout::Fanout;
use crate::load::schedule::{Pace, Source};

/// The limit of a connection's outbox in bytes. An outbox of this size overflows within seconds.
const OUTBOX_BYTES: &str = "65536";

/// The minimum time for publishing messages. It must be long enough to fill the kernel's socket buffers first, and then
/// the outbox.
const SHORTEST: Duration = Duration::from_secs(10);

pub fn cases(scale: &Scale) -> Vec<Case> {
    let case = |name, stalled| {
        let source = Source { keys: KEYS, bytes: 200, pace: Pace::Steady(100.0), batch: 1 };
        let load = Fanout::to_all(scale.part_of(900), source, scale.lasts.max(SHORTEST));
        let arguments = vec!["--outbox-bytes".to_owned(), OUTBOX_BYTES.to_owned()];
        Case { arguments, ..Case::fanout(name, OURS, Fanout { stalled, ..load }) }
    };
    vec![case("slow", scale.part_of(100)), case("slow-without", 0)]
}

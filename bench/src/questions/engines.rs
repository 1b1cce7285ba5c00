//! How much does each storage engine cost, and `redis` with one to three nodes?
//!
//! All engines run under the same loads. Subscribers and publishers are spread over the nodes. The processor time is
//! the sum over all nodes and Redis.

use crate::case::{Case, KEYS, OURS, Scale};
use crate::load::fanout::Fanout;
use crate::load::schedule::{Pace, Source};
use crate::server::deployment::Deployment::{self, Journal, Memory, Redis};

const DEPLOYMENTS: [Deployment; 5] = [Memory, Journal, Redis(1), Redis(2), Redis(3)];

/// The case `single-1` has one publisher, for which the journal syncs each publish. In `single-64`, 64 publishers share
/// syncs.
pub fn cases(scale: &Scale) -> Vec<Case> {
    let case = |load: &str, deployment: Deployment, readers, publishers, source| {
        let name = format!("engines-{load}-{}", deployment.name());
        let load = Fanout { publishers, ..Fanout::to_all(readers, source, scale.lasts) };
        Case { deployment, ..Case::fanout(&name, OURS, load) }
    };
    let steady = Source { keys: KEYS, bytes: 200, pace: Pace::Steady(100.0), batch: 1 };
    let unpaced = |batch| Source { keys: 10_000, bytes: 200, pace: Pace::Unpaced, batch };
    let here = || DEPLOYMENTS.into_iter().filter(|deployment| scale.broker || !deployment.has_broker());
    let light = here().map(|on| case("light", on, 1_000, 1, steady));
    let hot = here().map(|on| case("hot", on, 200, 8, unpaced(1)));
    let single = here().map(|on| case("single-64", on, 0, 64, unpaced(1)));
    let batch = here().map(|on| case("batch", on, 0, 4, unpaced(100)));
    let alone = case("single-1", Journal, 0, 1, unpaced(1));
    light.chain(hot).chain(single).chain([alone]).chain(batch).collect()
}

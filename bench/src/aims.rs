//! What the measurements are meant to show, as ratios within one run.

use crate::record::Record;
use crate::statistics::Summary;

/// The server that the aims are about.
const SUBJECT: &str = "oddswire";

/// The two peers that are fast enough to compare a delivery with.
const FAST_PEERS: &[&str] = &["nchan", "stock-warp"];

/// Which side of its limit a value should be on.
#[derive(Clone, Copy, PartialEq)]
pub enum Want {
    AtMost(f64),
    AtLeast(f64),
}

/// What a figure is compared with.
#[derive(Clone, Copy)]
enum Against {
    Nothing,
    /// The same case with another server; of several, the best one of each run.
    Peers(&'static [&'static str]),
    /// Another case with the same server.
    Case(&'static str),
    /// Another case, too, but the difference counts, divided by so many.
    DifferenceTo(&'static str, f64),
}

/// One aim.
pub struct Aim {
    case: &'static str,
    figure: &'static str,
    against: Against,
    want: Want,
}

const fn aim(case: &'static str, figure: &'static str, against: Against, want: Want) -> Aim {
    Aim { case, figure, against, want }
}

use Against::{Case, DifferenceTo, Nothing, Peers};
use Want::{AtLeast, AtMost};

pub const AIMS: &[Aim] = &[
    aim("idle-ws", "bytes_per_connection", Nothing, AtMost(4608.0)),
    aim("idle-ws", "bytes_per_connection", Peers(&["stock-warp"]), AtMost(0.04)),
    aim("connect-ws", "handshakes_per_s", Peers(&["nchan"]), AtLeast(0.8)),
    aim("connect-ws", "handshakes_per_s", Nothing, AtLeast(12_000.0)),
    aim("light-ws", "cpu_us_per_delivery", Peers(FAST_PEERS), AtMost(1.0)),
    aim("light-ws", "p99_us", Peers(FAST_PEERS), AtMost(1.0)),
    aim("light-ws", "cpu_user_us_per_delivery", Peers(&["stock-warp"]), AtMost(0.6)),
    aim("wide-ws", "cpu_us_per_delivery", Peers(FAST_PEERS), AtMost(1.05)),
    aim("wide-ws", "p99_us", Peers(FAST_PEERS), AtMost(0.8)),
    aim("gentle-ws", "cpu_us_per_delivery", Peers(&["fastapi"]), AtMost(0.333)),
    aim("hot-ws", "deliveries_per_s", Peers(&["stock-warp"]), AtLeast(1.1)),
    aim("hot-ws", "deliveries_per_s", Peers(&["nchan"]), AtLeast(1.5)),
    aim("hot-ws", "p99_us", Peers(FAST_PEERS), AtMost(1.0)),
    aim("narrow-one-of-many-ws", "cpu_us_per_publish", Case("narrow-only-one-ws"), AtMost(1.2)),
    aim("slow-ws", "p99_us", Case("slow-without-ws"), AtMost(1.1)),
    // The outbox of 64 KiB, and as much again for what the writer has taken out of it.
    aim("slow-ws", "rss_peak_kib", DifferenceTo("slow-without-ws", 100.0), AtMost(128.0)),
    aim("ingest-batch-0-ws", "published_per_s", Nothing, AtLeast(50_000.0)),
    // Publishers that share a sync, against one sync for each publish.
    aim("engines-single-64-journal", "published_per_s", Case("engines-single-1-journal"), AtLeast(3.0)),
];

impl Aim {
    /// What is compared, in words.
    pub fn question(&self) -> (String, String, String) {
        let against = match self.against {
            Nothing => "absolute".to_owned(),
            Peers([one]) => (*one).to_owned(),
            Peers(several) => format!("the better of {}", several.join(" and ")),
            Case(case) => case.to_owned(),
            DifferenceTo(case, count) => format!("difference to {case}, per {count:.0}"),
        };
        let limit = match self.want {
            AtMost(limit) => format!("at most {limit}"),
            AtLeast(limit) => format!("at least {limit}"),
        };
        (format!("{}: {}", self.case, self.figure), against, limit)
    }

    /// The ratio of each run, summed up; `None` where something was not measured.
    pub fn outcome(&self, records: &[Record]) -> Option<Summary> {
        let ours = values(records, self.case, SUBJECT, self.figure);
        let other = |case| values(records, case, SUBJECT, self.figure).into_iter();
        match self.against {
            Nothing => Summary::of(ours),
            Case(case) => Summary::of(ours.iter().zip(other(case)).map(|(a, b)| a / b)),
            DifferenceTo(case, count) => Summary::of(ours.iter().zip(other(case)).map(|(a, b)| (a - b) / count)),
            Peers(peers) => {
                let peers: Vec<Vec<f64>> =
                    peers.iter().map(|peer| values(records, self.case, peer, self.figure)).collect();
                let ratio = |(run, value): (usize, &f64)| {
                    let of_run = peers.iter().filter_map(|values| values.get(run).copied());
                    Some(value / of_run.reduce(|a, b| self.better(a, b))?)
                };
                Summary::of(ours.iter().enumerate().filter_map(ratio))
            }
        }
    }

    pub fn is_met(&self, outcome: &Summary) -> bool {
        match self.want {
            AtMost(limit) => outcome.median <= limit,
            AtLeast(limit) => outcome.median >= limit,
        }
    }

    fn better(&self, a: f64, b: f64) -> f64 {
        if matches!(self.want, AtMost(_)) { a.min(b) } else { a.max(b) }
    }
}

/// The figures of a case and server in the order of the runs: figures at the same place were measured side by side.
fn values(records: &[Record], case: &str, server: &str, figure: &str) -> Vec<f64> {
    let of_case = records.iter().filter(|record| record.case == case && record.server == server);
    of_case.filter_map(|record| record.figures.get(figure)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    fn record(case: &str, server: &str, value: f64) -> Record {
        let mut figures = Figures::default();
        figures.set("p99_us", value);
        Record { case: case.to_owned(), server: server.to_owned(), run: 1, figures }
    }

    #[test]
    fn each_run_is_compared_with_the_best_peer_of_that_run() {
        let aim = aim("light-ws", "p99_us", Peers(FAST_PEERS), AtMost(1.0));
        let mut records = vec![record("light-ws", SUBJECT, 10.0), record("light-ws", SUBJECT, 10.0)];
        assert_eq!(aim.outcome(&records), None);
        for (server, value) in [("nchan", 20.0), ("stock-warp", 40.0), ("nchan", 10.0), ("stock-warp", 5.0)] {
            records.push(record("light-ws", server, value));
        }
        let outcome = aim.outcome(&records).expect("everything was measured");
        assert_eq!((outcome.least, outcome.most), (0.5, 2.0));
        assert!(!aim.is_met(&outcome));
    }

    #[test]
    fn a_case_is_compared_with_another_one_of_the_same_server() {
        let records = [record("slow-ws", SUBJECT, 300.0), record("slow-without-ws", SUBJECT, 100.0)];
        let ratio = aim("slow-ws", "p99_us", Case("slow-without-ws"), AtMost(1.1));
        assert_eq!(ratio.outcome(&records).map(|outcome| outcome.median), Some(3.0));
        let difference = aim("slow-ws", "p99_us", DifferenceTo("slow-without-ws", 100.0), AtMost(2.0));
        assert_eq!(difference.outcome(&records).map(|outcome| outcome.median), Some(2.0));
    }
}

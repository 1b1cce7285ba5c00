//! The aims: limits for figures. Most of these figures are ratios of two measurements of one run.

use crate::figures::record::Record;
use crate::figures::statistics::Summary;

/// The server that should meet the aims.
const SUBJECT: &str = "oddswire";

/// The peers that deliver fast enough for a comparison.
const FAST_PEERS: &[&str] = &["nchan", "stock-warp"];

/// The limit of a figure.
#[derive(Clone, Copy, PartialEq)]
pub enum Want {
    AtMost(f64),
    AtLeast(f64),
}

/// The value that a figure is compared with.
#[derive(Clone, Copy)]
enum Against {
    Nothing,
    /// The ratio to another server in the same case; of several servers, to the best in each run.
    Peers(&'static [&'static str]),
    /// The ratio to another case with the same server.
    Case(&'static str),
    /// The difference to another case with the same server, divided by a number.
    DifferenceTo(&'static str, f64),
}

/// A limit for a figure of a case.
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
    aim("idle", "bytes_per_connection", Nothing, AtMost(4608.0)),
    aim("idle", "bytes_per_connection", Peers(&["stock-warp"]), AtMost(0.04)),
    aim("connect", "handshakes_per_s", Peers(&["nchan"]), AtLeast(0.8)),
    aim("connect", "handshakes_per_s", Nothing, AtLeast(12_000.0)),
    aim("light", "cpu_us_per_delivery", Peers(FAST_PEERS), AtMost(1.0)),
    aim("light", "p99_us", Peers(FAST_PEERS), AtMost(1.0)),
    aim("light", "cpu_user_us_per_delivery", Peers(&["stock-warp"]), AtMost(0.6)),
    aim("wide", "cpu_us_per_delivery", Peers(FAST_PEERS), AtMost(1.05)),
    aim("wide", "p99_us", Peers(FAST_PEERS), AtMost(0.8)),
    aim("gentle", "cpu_us_per_delivery", Peers(&["fastapi"]), AtMost(0.333)),
    aim("hot", "deliveries_per_s", Peers(&["stock-warp"]), AtLeast(1.1)),
    aim("hot", "deliveries_per_s", Peers(&["nchan"]), AtLeast(1.5)),
    aim("hot", "p99_us", Peers(FAST_PEERS), AtMost(1.0)),
    aim("narrow-one-of-many", "cpu_us_per_publish", Case("narrow-only-one"), AtMost(1.2)),
    aim("slow", "p99_us", Case("slow-without"), AtMost(1.1)),
    // In KiB for each slow client: an outbox of 64 KiB, and the same amount for messages that the writer has taken out.
    aim("slow", "rss_peak_kib", DifferenceTo("slow-without", 100.0), AtMost(128.0)),
    aim("ingest", "published_per_s", Nothing, AtLeast(50_000.0)),
    // Compares 64 publishers that share syncs with one publisher that needs a sync for each publish.
    aim("engines-single-64-journal", "published_per_s", Case("engines-single-1-journal"), AtLeast(3.0)),
];

impl Aim {
    /// The figure, its comparison and its limit, in words.
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

    /// Summarizes the compared figures of all runs; `None` when a figure is missing.
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

/// The values of a figure for a case and server, in the order of the runs. Values of two servers at the same index
/// belong to the same run.
fn values(records: &[Record], case: &str, server: &str, figure: &str) -> Vec<f64> {
    let of_case = records.iter().filter(|record| record.case == case && record.server == server);
    of_case.filter_map(|record| record.figures.get(figure)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::Figures;

    fn record(case: &str, server: &str, value: f64) -> Record {
        let mut figures = Figures::default();
        figures.set("p99_us", value);
        Record { case: case.to_owned(), server: server.to_owned(), run: 1, figures }
    }

    #[test]
    fn each_run_is_compared_with_its_best_peer() {
        let aim = aim("light", "p99_us", Peers(FAST_PEERS), AtMost(1.0));
        let mut records = vec![record("light", SUBJECT, 10.0), record("light", SUBJECT, 10.0)];
        assert_eq!(aim.outcome(&records), None);
        for (server, value) in [("nchan", 20.0), ("stock-warp", 40.0), ("nchan", 10.0), ("stock-warp", 5.0)] {
            records.push(record("light", server, value));
        }
        let outcome = aim.outcome(&records).expect("every figure was measured");
        assert_eq!((outcome.least, outcome.most), (0.5, 2.0));
        assert!(!aim.is_met(&outcome));
    }

    #[test]
    fn case_is_compared_with_another_case() {
        let records = [record("slow", SUBJECT, 300.0), record("slow-without", SUBJECT, 100.0)];
        let ratio = aim("slow", "p99_us", Case("slow-without"), AtMost(1.1));
        assert_eq!(ratio.outcome(&records).map(|outcome| outcome.median), Some(3.0));
        let difference = aim("slow", "p99_us", DifferenceTo("slow-without", 100.0), AtMost(2.0));
        assert_eq!(difference.outcome(&records).map(|outcome| outcome.median), Some(2.0));
    }
}

//! How does the cost of a connection change with the number of connections, and which resource runs out first?
//!
//! Memory grows along a line: a base, and an amount for each connection. The processor time of a delivery grows because
//! the caches miss more often. It grows by the same amount with every doubling of the connections, which fits the
//! measurements better than a line. The report extrapolates memory and processor time to more connections than one
//! machine can hold. The resource that is used up at the smaller number of connections runs out first.

use std::fmt::Write as _;

use crate::case::{Case, KEYS, OURS, Scale};
use crate::figures::curve::{Curve, points};
use crate::figures::fit::{Fit, Line};
use crate::figures::machine::Machine;
use crate::figures::record::Record;
use crate::figures::statistics::short;
use crate::load::fanout::Fanout;
use crate::load::schedule::{Pace, Source};

/// The name of the question.
pub const NAME: &str = "growth";

/// The rate of all deliveries together. At this rate, the server is idle most of the time and messages do not wait in a
/// queue.
const DELIVERIES_PER_S: f64 = 40_000.0;

/// The numbers of subscribers. The greatest number fits into a limit of 20,000 open files.
const SUBSCRIBERS: [u32; 5] = [1_000, 2_000, 5_000, 10_000, 19_000];

/// The shares of the machine's cores and memory that a server may use. The rest is for bursts and for the system.
const CORES_SHARE: f64 = 0.7;
const MEMORY_SHARE: f64 = 0.8;

/// The rates to calculate limits for, in messages a second to each client.
const RATES: [f64; 4] = [0.01, 0.1, 1.0, 10.0];

/// The numbers of connections to extrapolate to.
const BEYOND: [f64; 2] = [100_000.0, 1_000_000.0];

const KIB: f64 = 1024.0;
const GIB: f64 = KIB * KIB * KIB;

/// The fitted curves, as functions of the number of connections.
struct Lines {
    /// The server's resident memory in bytes.
    resident: Line,
    /// The kernel's memory for one end of each connection, in bytes.
    kernel: Line,
    /// The server's processor time for one delivery, in microseconds.
    cpu: Fit,
}

/// All cases have the same number of deliveries a second, so only the number of connections differs.
pub fn cases(scale: &Scale) -> Vec<Case> {
    let case = |number| {
        let readers = scale.part_of(number);
        let pace = Pace::Steady(DELIVERIES_PER_S / f64::from(readers));
        let source = Source { keys: KEYS, bytes: 200, pace, batch: 1 };
        Case::fanout(&format!("{NAME}-{readers}"), OURS, Fanout::to_all(readers, source, scale.lasts))
    };
    SUBSCRIBERS.into_iter().map(case).collect()
}

/// The panels of the plot.
pub fn curves(records: &[Record]) -> Vec<Curve> {
    let curve = |heading: &str, figure: &str, unit, fit: fn(&[(f64, f64)]) -> Option<Fit>| {
        let points = points(records, figure, unit);
        Curve { heading: heading.to_owned(), fit: fit(&points), points }
    };
    vec![
        curve("resident MiB of the server", "rss_idle_kib", KIB, Fit::straight),
        curve("kernel's MiB for both ends", "kernel_kib", KIB, Fit::straight),
        curve("CPU us per delivery", "cpu_us_per_delivery", 1.0, Fit::doubling),
    ]
}

impl Lines {
    fn of(records: &[Record]) -> Option<Self> {
        let line = |figure, unit| Line::through(&points(records, figure, unit));
        let Line { at_zero, slope } = line("kernel_kib", 1.0 / KIB)?;
        Some(Self {
            resident: line("rss_idle_kib", 1.0 / KIB)?,
            kernel: Line { at_zero: at_zero.max(0.0) / 2.0, slope: slope / 2.0 },
            cpu: Fit::doubling(&points(records, "cpu_us_per_delivery", 1.0))?,
        })
    }

    fn memory(&self, connections: f64) -> f64 {
        self.resident.at(connections) + self.kernel.at(connections)
    }

    /// The number of connections for which `bytes` bytes of memory suffice.
    fn most_by_memory(&self, bytes: f64) -> f64 {
        (bytes - self.memory(0.0)) / (self.memory(1.0) - self.memory(0.0))
    }

    /// The number of connections for which `time` suffices, in microseconds of processor time a second. Each connection
    /// gets `rate` messages a second. Searches by bisection, because the processor time of a delivery depends on the
    /// number of connections.
    fn most_by_cpu(&self, time: f64, rate: f64) -> f64 {
        let (mut enough, mut too_many) = (1.0, 1e9);
        while too_many - enough > 1.0 {
            let middle = f64::midpoint(enough, too_many);
            if rate * middle * self.cpu.at(middle) <= time { enough = middle } else { too_many = middle }
        }
        enough
    }
}

/// The conclusion for the report; `None` if there are too few points for a fit.
pub fn text(records: &[Record], machine: &Machine) -> Option<String> {
    let lines = Lines::of(records)?;
    let mut text = format!(
        "Fitted: {} KiB of resident memory and {} B for each connection; {} B of the kernel's memory for the server's end of \
         each; {} us of CPU for a delivery at 1,000 connections, and {} us more with every doubling.\n\n",
        short(lines.resident.at_zero / KIB),
        short(lines.resident.slope),
        short(lines.kernel.slope),
        short(lines.cpu.at(1_000.0)),
        short(lines.cpu.at(2_000.0) - lines.cpu.at(1_000.0)),
    );
    text.push_str("| connections | resident GiB | kernel GiB | CPU us/delivery | deliveries/s of a core |\n");
    text.push_str("|--:|--:|--:|--:|--:|\n");
    for connections in BEYOND {
        let cpu = lines.cpu.at(connections);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            short(connections),
            short(lines.resident.at(connections) / GIB),
            short(lines.kernel.at(connections) / GIB),
            short(cpu),
            short(1e6 / cpu)
        );
    }
    let _ = write!(
        text,
        "\nWith {:.0} % of {} cores and {:.0} % of {} GiB, which resource runs out first?\n\n\
         | messages/s to each client | connections by CPU | connections by memory | runs out first |\n|--:|--:|--:|---|\n",
        CORES_SHARE * 100.0,
        machine.cores,
        MEMORY_SHARE * 100.0,
        short(machine.memory / GIB)
    );
    for rate in RATES {
        let by_cpu = lines.most_by_cpu(machine.cores * CORES_SHARE * 1e6, rate);
        let by_memory = lines.most_by_memory(machine.memory * MEMORY_SHARE);
        let first = if by_cpu < by_memory { "CPU" } else { "memory" };
        let _ = writeln!(text, "| {rate} | {} | {} | {first} |", short(by_cpu), short(by_memory));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::Figures;

    fn record(connections: f64) -> Record {
        let mut figures = Figures::default();
        figures.set("connections", connections);
        figures.set("rss_idle_kib", 5_000.0 + 4.0 * connections);
        figures.set("kernel_kib", 8.0 * connections);
        figures.set("cpu_us_per_delivery", 5.0);
        Record { case: format!("{NAME}-{connections}"), server: "oddswire".to_owned(), run: 1, figures }
    }

    #[test]
    fn resource_that_runs_out_first_depends_on_the_rate() {
        let records = [record(1_000.0), record(10_000.0)];
        let machine = Machine { cores: 2.0, memory: 8.0 * GIB };
        let text = text(&records, &machine).expect("there are two points");
        assert!(
            text.starts_with("Fitted: 5000 KiB of resident memory and 4096 B for each connection; 4096 B"),
            "{text}"
        );
        assert!(text.contains("| 1 | 280k | 838k | CPU |"), "{text}");
        assert!(text.contains("| 0.1 | 2800k | 838k | memory |"), "{text}");
    }

    #[test]
    fn one_number_of_connections_has_no_conclusion() {
        assert!(text(&[record(1_000.0)], &Machine { cores: 2.0, memory: GIB }).is_none());
    }
}

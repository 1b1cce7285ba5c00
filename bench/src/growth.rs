//! What the scenario `growth` says about more connections than this machine can hold.
//!
//! Memory is a line: a base and so much for each connection. A delivery takes the processor longer the more connections
//! there are, since its caches miss more often, but ever more slowly: as much with every doubling fits what is measured
//! better than a line. Where both are continued, the resource that is used up at the smaller number of connections is
//! the one that ends first.

use std::fmt::Write as _;

use crate::curve::Curve;
use crate::fit::{Fit, Line};
use crate::machine::Machine;
use crate::record::Record;
use crate::statistics::{Summary, short};

/// What the names of its cases begin with.
pub const NAME: &str = "growth";

/// Shares of the machine that a server may use: the rest is for bursts, and for the system.
const CORES_SHARE: f64 = 0.7;
const MEMORY_SHARE: f64 = 0.8;

/// Messages a second that each client gets.
const RATES: [f64; 4] = [0.01, 0.1, 1.0, 10.0];

const BEYOND: [f64; 2] = [100_000.0, 1_000_000.0];

const KIB: f64 = 1024.0;
const GIB: f64 = KIB * KIB * KIB;

/// What was fitted, over the number of connections.
struct Lines {
    /// Bytes of the server's resident memory.
    resident: Line,
    /// Bytes of the kernel's, for one end of each connection.
    kernel: Line,
    /// Microseconds of the server's processor time for a delivery.
    cpu: Fit,
}

/// The figures of the cases as points, by the number of connections.
pub fn points(records: &[Record], figure: &str, unit: f64) -> Vec<(f64, f64)> {
    let mut counts: Vec<f64> = records.iter().filter_map(|record| record.figures.get("connections")).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    let median = |&count: &f64| {
        let of_count = records.iter().filter(|record| record.figures.get("connections") == Some(count));
        let summary = Summary::of(of_count.filter_map(|record| record.figures.get(figure)))?;
        Some((count, summary.median / unit))
    };
    counts.iter().filter_map(median).collect()
}

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

    /// As many connections as there is memory for.
    fn most_by_memory(&self, bytes: f64) -> f64 {
        (bytes - self.memory(0.0)) / (self.memory(1.0) - self.memory(0.0))
    }

    /// As many connections as there is processor time for, in microseconds a second, where each gets so many messages a
    /// second. It is searched for by halves, since the time that they need grows with their number.
    fn most_by_cpu(&self, time: f64, rate: f64) -> f64 {
        let (mut enough, mut too_many) = (1.0, 1e9);
        while too_many - enough > 1.0 {
            let middle = f64::midpoint(enough, too_many);
            if rate * middle * self.cpu.at(middle) <= time { enough = middle } else { too_many = middle }
        }
        enough
    }
}

/// What follows from the figures; `None` where they make no lines.
pub fn text(records: &[Record], machine: &Machine) -> Option<String> {
    let lines = Lines::of(records)?;
    let mut text = format!(
        "Fitted: {} KiB of resident memory and {} B for each connection; {} B of the kernel's for each, at this end; \
         {} us of CPU per delivery at 1,000 connections, and {} us more with every doubling.\n\n",
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
        "\nWith {:.0} % of {} cores and {:.0} % of {} GiB, which ends first:\n\n\
         | messages/s for each client | connections by CPU | connections by memory | ends first |\n|--:|--:|--:|---|\n",
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
    use crate::record::Figures;

    fn record(connections: f64) -> Record {
        let mut figures = Figures::default();
        figures.set("connections", connections);
        figures.set("rss_idle_kib", 5_000.0 + 4.0 * connections);
        figures.set("kernel_kib", 8.0 * connections);
        figures.set("cpu_us_per_delivery", 5.0);
        Record { case: format!("growth-{connections}-ws"), server: "oddswire".to_owned(), run: 1, figures }
    }

    #[test]
    fn the_resource_that_ends_first_depends_on_the_rate() {
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
    fn one_number_of_connections_tells_nothing_of_others() {
        assert!(text(&[record(1_000.0)], &Machine { cores: 2.0, memory: GIB }).is_none());
    }
}

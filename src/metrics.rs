//! All metrics, with the name, help text and labels of each.
//!
//! Counters change where the counted event happens. The server reads each [`Reading`] on a request to `/metrics` (admin
//! listener).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::topic::Topic;

/// The transport of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Transport {
    /// WebSocket.
    #[expect(non_camel_case_types, reason = "the name of the label's value")]
    websocket,
    /// Server-sent events.
    #[expect(non_camel_case_types, reason = "the name of the label's value")]
    sse,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTransport {
    transport: Transport,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gone {
    transport: Transport,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTopic {
    topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMode {
    mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPublisher {
    publisher: String,
}

/// The modes of catch-ups, and the codes of refusals that mean lost data or lost clients. The series with these labels
/// exist from the start: Prometheus sees no increase in a series that first appears with a value above 0.
const MODES: [&str; 4] = ["replayed", "conflated", "snapshot", "gap"];
const CODES: [&str; 2] = ["full", "state_full"];

/// The counters of messages and bytes for all clients of one transport. They are stored here so that a write need not
/// look them up by label.
#[derive(Debug)]
struct Out {
    messages: Counter,
    bytes: Counter,
}

impl Out {
    fn of(transport: Transport, delivered: &Family<OfTransport, Counter>, sent: &Family<OfTransport, Counter>) -> Self {
        let label = OfTransport { transport };
        Self { messages: delivered.get_or_create_owned(&label), bytes: sent.get_or_create_owned(&label) }
    }
}

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: Family<OfTransport, Gauge>,
    connects: Family<OfTransport, Counter>,
    disconnects: Family<Gone, Counter>,
    published: Family<OfTopic, Counter>,
    unchanged: Family<OfTopic, Counter>,
    publishes: Family<OfPublisher, Counter>,
    delivered: Family<OfTransport, Counter>,
    bytes_out: Family<OfTransport, Counter>,
    out_websocket: Out,
    out_sse: Out,
    conflated: Counter,
    catch_ups: Family<OfMode, Counter>,
    slow: Counter,
    over_budget: Counter,
    refused: Family<OfCode, Counter>,
    accept_errors: Counter,
    engine_lag: Gauge,
    engine_losses: Counter,
    engine_resets: Counter,
    publish_latency: Histogram,
    delivery_latency: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // The bounds of the buckets: from a quarter of a millisecond to eight seconds.
        let latency = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        let (delivered, bytes_out) = (Family::default(), Family::default());
        let mut metrics = Self {
            registry: Registry::with_prefix("oddswire"),
            connections: Family::default(),
            connects: Family::default(),
            disconnects: Family::default(),
            published: Family::default(),
            unchanged: Family::default(),
            publishes: Family::default(),
            out_websocket: Out::of(Transport::websocket, &delivered, &bytes_out),
            out_sse: Out::of(Transport::sse, &delivered, &bytes_out),
            delivered,
            bytes_out,
            conflated: Counter::default(),
            catch_ups: Family::default(),
            slow: Counter::default(),
            over_budget: Counter::default(),
            refused: Family::default(),
            accept_errors: Counter::default(),
            engine_lag: Gauge::default(),
            engine_losses: Counter::default(),
            engine_resets: Counter::default(),
            publish_latency: latency(),
            delivery_latency: latency(),
        };
        metrics.register();
        metrics.begin();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        r.register_with_unit(
            "process_start_time",
            "When the process started, in Unix time",
            Unit::Seconds,
            ConstGauge::new(started),
        );
        r.register("connections", "Clients that are connected", self.connections.clone());
        r.register("connects", "Clients that connected", self.connects.clone());
        r.register("disconnects", "Clients that left, by reason", self.disconnects.clone());
        r.register("messages_published", "Messages taken from publishers", self.published.clone());
        r.register(
            "messages_unchanged",
            "Keyed messages with unchanged data: confirmed, not delivered",
            self.unchanged.clone(),
        );
        r.register("publishes", "Accepted publish requests, by publisher", self.publishes.clone());
        r.register("messages_delivered", "Published messages written to clients", self.delivered.clone());
        r.register_with_unit("sent", "Written to clients", Unit::Bytes, self.bytes_out.clone());
        r.register("messages_conflated", "Messages that catch-ups skipped, as told to clients", self.conflated.clone());
        r.register("catch_ups", "Catch-ups announced to clients, by mode", self.catch_ups.clone());
        r.register("slow_clients", "Times that an outbox was full and its client left behind", self.slow.clone());
        let help = "Times that all outboxes together exceeded the memory budget";
        r.register("over_memory_budget", help, self.over_budget.clone());
        r.register("requests_refused", "Refused requests, by error code", self.refused.clone());
        let help = "Failed attempts to accept a connection, such as for lack of file descriptors";
        r.register("accept_errors", help, self.accept_errors.clone());
        let help = "Messages in the broker that this node has not delivered yet";
        r.register("engine_lag_messages", help, self.engine_lag.clone());
        let help = "Times that the storage engine was lost: the connection to the broker, or the journal's file";
        r.register("engine_losses", help, self.engine_losses.clone());
        let help = "Times that the sequence broke: the log was read again, and every client was told";
        r.register("engine_resets", help, self.engine_resets.clone());
        let help = "Time from the complete publish request to its answer";
        r.register_with_unit("publish_latency", help, Unit::Seconds, self.publish_latency.clone());
        let help = "Time from the log to the socket, for the first live message of each write";
        r.register_with_unit("delivery_latency", help, Unit::Seconds, self.delivery_latency.clone());
    }

    /// Creates the series whose labels are known from the start.
    fn begin(&self) {
        for transport in [Transport::websocket, Transport::sse] {
            let label = OfTransport { transport };
            self.connections.get_or_create(&label).inc_by(0);
            for family in [&self.connects, &self.delivered, &self.bytes_out] {
                family.get_or_create(&label).inc_by(0);
            }
        }
        for mode in MODES {
            self.catch_ups.get_or_create(&OfMode { mode }).inc_by(0);
        }
        for code in CODES {
            self.refused.get_or_create(&OfCode { code }).inc_by(0);
        }
    }

    /// Counts a client as connected until the result is dropped.
    #[must_use]
    pub fn connected(self: &Arc<Self>, transport: Transport) -> Tracked {
        self.connections.get_or_create(&OfTransport { transport }).inc();
        self.connects.get_or_create(&OfTransport { transport }).inc();
        Tracked { metrics: Arc::clone(self), transport }
    }

    /// Counts a client that disconnected for this reason.
    pub fn disconnected(&self, transport: Transport, reason: &str) {
        self.disconnects.get_or_create(&Gone { transport, reason: reason.to_owned() }).inc();
    }

    /// Counts the accepted messages of a topic, and how many of these messages are unchanged.
    pub(crate) fn published(&self, topic: &Topic, accepted: usize, unchanged: usize) {
        let label = OfTopic { topic: topic.to_string() };
        self.published.get_or_create(&label).inc_by(accepted as u64);
        self.unchanged.get_or_create(&label).inc_by(unchanged as u64);
    }

    /// Counts an accepted publish request and its duration.
    pub(crate) fn publish_taken(&self, publisher: &str, took: Duration) {
        self.publishes.get_or_create(&OfPublisher { publisher: publisher.to_owned() }).inc();
        self.publish_latency.observe(took.as_secs_f64());
    }

    /// Counts the messages and bytes of one write to a client. `latency` is the latency of the first live message in
    /// the write, if there is one.
    pub(crate) fn delivered(&self, transport: Transport, messages: u64, bytes: u64, latency: Option<Duration>) {
        let out = match transport {
            Transport::websocket => &self.out_websocket,
            Transport::sse => &self.out_sse,
        };
        out.messages.inc_by(messages);
        out.bytes.inc_by(bytes);
        if let Some(latency) = latency {
            self.delivery_latency.observe(latency.as_secs_f64());
        }
    }

    /// Counts a catch-up that the server announces, and the messages that the catch-up skips.
    pub(crate) fn caught_up(&self, mode: &'static str, skipped: Option<u64>) {
        self.catch_ups.get_or_create(&OfMode { mode }).inc();
        self.conflated.inc_by(skipped.unwrap_or(0));
    }

    /// Counts a client whose outbox was full.
    pub(crate) fn fell_behind(&self) {
        self.slow.inc();
    }

    /// Counts that all outboxes together exceeded the memory budget.
    pub(crate) fn over_budget(&self) {
        self.over_budget.inc();
    }

    /// Counts a refused request.
    pub(crate) fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&OfCode { code }).inc();
    }

    /// Counts a failed attempt to accept a connection.
    pub(crate) fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// Sets the lag between the last offset of the sequence and the last offset that this node delivered.
    pub(crate) fn engine_position(&self, last: u64, delivered: u64) {
        self.engine_lag.set(i64::try_from(last.saturating_sub(delivered)).unwrap_or(i64::MAX));
    }

    /// Counts that this node lost the storage engine.
    pub(crate) fn engine_lost(&self) {
        self.engine_losses.inc();
    }

    /// Counts that this node read the log again because the sequence broke.
    pub(crate) fn engine_reset(&self) {
        self.engine_resets.inc();
    }

    /// Writes all metrics and these gauges in the `OpenMetrics` text format.
    #[must_use]
    pub fn expose(&self, gauges: &[Reading]) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to memory does not fail");
        // `# EOF` must appear only once, after the gauges.
        text.truncate(text.trim_end().trim_end_matches("# EOF").len());
        for reading in gauges {
            reading.write(&mut text).expect("writing to memory does not fail");
        }
        text.push_str("# EOF\n");
        text
    }
}

/// A gauge that the server reads for each request to `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The name of the gauge, without the prefix `oddswire_`.
    pub name: &'static str,
    /// The help text of the gauge.
    pub help: &'static str,
    /// One value, or one value for each topic.
    pub values: Values,
}

/// The values of a gauge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// A single value.
    Plain(u64),
    /// One value for each topic.
    ByTopic(Vec<(Topic, u64)>),
}

impl Reading {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Self { name, help, values } = self;
        writeln!(text, "# HELP oddswire_{name} {help}.\n# TYPE oddswire_{name} gauge")?;
        match values {
            Values::Plain(value) => writeln!(text, "oddswire_{name} {value}"),
            Values::ByTopic(values) => values
                .iter()
                .try_for_each(|(topic, value)| writeln!(text, "oddswire_{name}{{topic=\"{topic}\"}} {value}")),
        }
    }
}

/// Gauges of the process: resident memory, open files, and the limit on open files. A value is 0 if the system does not
/// report it.
#[must_use]
pub(crate) fn process() -> [Reading; 3] {
    let reading = |name, help, value| Reading { name, help, values: Values::Plain(value) };
    [
        reading("process_resident_memory_bytes", "Memory of the process", resident_bytes()),
        reading("process_open_fds", "Open files of the process", open_files()),
        reading("process_max_fds", "Files that the process may have open", most_open_files()),
    ]
}

/// Counts a client as connected until this value is dropped.
#[derive(Debug)]
pub struct Tracked {
    metrics: Arc<Metrics>,
    transport: Transport,
}

impl Tracked {
    /// The metrics that count the client.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.metrics.connections.get_or_create(&OfTransport { transport: self.transport }).dec();
    }
}

/// The process's resident memory in bytes; 0 if the system does not report it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The number of files that the process has open; 0 if the system does not report it.
fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// The soft limit on open files, which the process does not raise; 0 if the system does not report it.
fn most_open_files() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

//! What the screen shows: rates from two samples, and the user's choice of order and position.

use std::collections::{HashMap, VecDeque};

use super::sample::{ConnectionFacts, Sample};

/// The number of samples whose rates are in the chart.
const HISTORY: usize = 120;

/// The order of the list of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// By messages behind, then by queued bytes, largest first.
    Slowest,
    /// By rate, largest first.
    Rate,
    /// By age, newest first.
    Newest,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slowest => "slowest first",
            Self::Rate => "most traffic first",
            Self::Newest => "newest first",
        }
    }
}

/// A row of the list of clients.
#[derive(Debug)]
pub(super) struct ClientRow<'a> {
    pub(super) facts: &'a ConnectionFacts,
    /// Bytes per second; `None` if the client is not in the earlier of the two samples.
    pub(super) rate: Option<f64>,
}

/// A row of the list of topics.
#[derive(Debug)]
pub(super) struct TopicRates {
    pub(super) name: String,
    pub(super) subscribers: f64,
    pub(super) keys: f64,
    pub(super) history: f64,
    /// Messages per second.
    pub(super) rate: Option<f64>,
}

/// The last two samples, and the state of the screen.
#[derive(Debug)]
pub(super) struct View {
    pub(super) url: String,
    /// Why the latest attempt to take a sample failed.
    pub(super) trouble: Option<String>,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    pub(super) scroll: usize,
    /// Messages per second at each sample, newest last.
    pub(super) rates: VecDeque<u64>,
    before: Option<Sample>,
    now: Option<Sample>,
}

impl View {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            trouble: None,
            sort: Sort::Slowest,
            paused: false,
            scroll: 0,
            rates: VecDeque::new(),
            before: None,
            now: None,
        }
    }

    /// The latest successful sample.
    pub(super) fn now(&self) -> Option<&Sample> {
        self.now.as_ref()
    }

    /// Stores a new sample; ignores it while the screen is paused.
    pub(super) fn take(&mut self, sample: Result<Sample, String>) {
        if self.paused {
            return;
        }
        match sample {
            Ok(sample) => {
                self.trouble = None;
                self.before = self.now.replace(sample);
                if let Some(rate) = self.rate("oddswire_messages_published_total") {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a drawn rate needs no precision"
                    )]
                    self.rates.push_back(rate.round() as u64);
                    self.rates.drain(..self.rates.len().saturating_sub(HISTORY));
                }
            }
            Err(reason) => self.trouble = Some(reason),
        }
    }

    pub(super) fn sort_by_next(&mut self) {
        self.sort = match self.sort {
            Sort::Slowest => Sort::Rate,
            Sort::Rate => Sort::Newest,
            Sort::Newest => Sort::Slowest,
        };
    }

    pub(super) fn pause(&mut self) {
        self.paused = !self.paused;
    }

    /// Scrolls the list of clients within its bounds.
    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.now.as_ref().map_or(0, |now| now.connections.len().saturating_sub(1));
        self.scroll = self.scroll.saturating_add_signed(by).min(last);
    }

    /// The increase of a counter per second, summed over the counter's series.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        self.rise(|sample| sample.metrics.sum(name))
    }

    /// The increase of a value per second, between the two samples. `None` with one sample, or if the value decreased,
    /// as after a restart.
    fn rise(&self, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        let (before, now) = self.before.as_ref().zip(self.now.as_ref())?;
        let rise = value(now) - value(before);
        let seconds = (now.at - before.at).as_secs_f64();
        (rise >= 0.0 && seconds > 0.0).then_some(rise / seconds)
    }

    /// A quantile of the observations between the two samples; `None` if there are no observations.
    pub(super) fn quantile(&self, histogram: &str, share: f64) -> Option<f64> {
        let (before, now) = self.before.as_ref().zip(self.now.as_ref())?;
        let earlier: HashMap<u64, f64> =
            before.metrics.buckets(histogram).iter().map(|(bound, count)| (bound.to_bits(), *count)).collect();
        let since =
            now.metrics.buckets(histogram).into_iter().map(|(bound, count)| {
                (bound, (count - earlier.get(&bound.to_bits()).copied().unwrap_or(0.0)).max(0.0))
            });
        quantile(&since.collect::<Vec<_>>(), share)
    }

    /// The topics, sorted by name.
    pub(super) fn topics(&self) -> Vec<TopicRates> {
        let Some(now) = &self.now else { return Vec::new() };
        let mut names = now.metrics.values("oddswire_subscribers", "topic");
        names.sort_unstable();
        let topic = |name: &str| {
            let gauge = |gauge: &str| now.metrics.of(gauge, ("topic", name));
            TopicRates {
                name: name.to_owned(),
                subscribers: gauge("oddswire_subscribers"),
                keys: gauge("oddswire_keys"),
                history: gauge("oddswire_history"),
                rate: self.rise(|sample| sample.metrics.of("oddswire_messages_published_total", ("topic", name))),
            }
        };
        names.into_iter().map(topic).collect()
    }

    /// The clients, in the chosen order.
    pub(super) fn clients(&self) -> Vec<ClientRow<'_>> {
        let Some(now) = &self.now else { return Vec::new() };
        let earlier = self.before.iter().flat_map(|before| &before.connections);
        let earlier: HashMap<&str, u64> = earlier.map(|facts| (facts.id.as_str(), facts.bytes_sent)).collect();
        let seconds = self.before.as_ref().map_or(0.0, |before| (now.at - before.at).as_secs_f64());
        let client = |facts: &'_ ConnectionFacts| {
            let sent = earlier.get(facts.id.as_str()).map(|sent| facts.bytes_sent.saturating_sub(*sent));
            #[expect(clippy::cast_precision_loss, reason = "a rate for people needs no precision")]
            let rate = sent.filter(|_| seconds > 0.0).map(|sent| sent as f64 / seconds);
            rate
        };
        let mut clients: Vec<_> =
            now.connections.iter().map(|facts| ClientRow { facts, rate: client(facts) }).collect();
        // Sort by id first, so that clients with equal figures keep their order in each new sample.
        clients.sort_by(|one, other| one.facts.id.cmp(&other.facts.id));
        match self.sort {
            Sort::Slowest => {
                clients.sort_by_key(|client| std::cmp::Reverse((client.facts.behind, client.facts.outbox_bytes)));
            }
            Sort::Rate => {
                let rate = |client: &ClientRow<'_>| client.rate.unwrap_or(0.0);
                clients.sort_by(|one, other| rate(other).total_cmp(&rate(one)));
            }
            Sort::Newest => clients.sort_by_key(|client| client.facts.age_ms),
        }
        clients
    }
}

/// The value below which this share (0 to 1) of the observations lies. Assumes that observations are spread evenly
/// inside a bucket.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let wanted = total * share;
    let mut below = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= wanted {
            // The last bucket has no upper bound, so the result is the bucket's lower bound.
            let inside =
                if bound.is_finite() { (wanted - below.1) / (count - below.1).max(f64::MIN_POSITIVE) } else { 0.0 };
            let width = if bound.is_finite() { bound - below.0 } else { 0.0 };
            return Some(below.0 + width * inside);
        }
        below = (*bound, *count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_lies_inside_its_bucket() {
        let buckets = [(1.0, 50.0), (2.0, 100.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(1.0));
        assert_eq!(quantile(&buckets, 0.75), Some(1.5));
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 4.0)], 0.99), Some(1.0), "at least the last bound");
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }
}

//! How many more publishes does the journal take when publishers share syncs?
//!
//! Many publishers use a journal with `sync=always` in this process. The measurement alternates between shared syncs
//! and a sync for each publish. These two sides differ only in the maximum number of publishes for each sync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use oddswire::config::{Config, EngineKind, SyncWhen};
use oddswire::engine::{Engine as _, Journal};
use oddswire::manager::{ConnectionManager, ManagerLimits};
use oddswire::message::{Draft, Payload};
use serde_json::value::RawValue;
use slog::{Discard, Logger, o};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::figures::record::{Figures, Record};
use crate::figures::statistics::{Summary, short, to_f64};
use crate::figures::table;

/// The number of simultaneous publishers. Each publisher waits for the result of a publish before it sends the next
/// one.
const PUBLISHERS: u32 = 64;

/// The two sides: the maximum number of publishes for each sync, and the name of the side in the table.
const SIDES: [(usize, &str); 2] = [(1, "a sync each"), (usize::MAX, "shared syncs")];

/// The number of keys and the bytes of data, as in the question `engines`.
const KEYS: u64 = 10_000;
const BYTES: usize = 200;

/// Measures both sides in turn, `runs` times, and prints the figures. Creates the journals in temporary folders in
/// `parent`.
pub fn run(runs: u32, lasts: Duration, parent: &Path) -> Result<()> {
    let (mut records, mut ratios) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let mut rates = Vec::new();
        for (most, name) in SIDES {
            let directory = tempfile::tempdir_in(parent).context("cannot create a folder for the journal")?;
            let figures = measure(directory.path(), most, PUBLISHERS, lasts)?;
            rates.extend(figures.get("published_per_s"));
            let case = format!("group-commit-{PUBLISHERS}");
            records.push(Record { case, server: name.to_owned(), run, figures });
        }
        if let [each, shared] = rates[..] {
            ratios.push(shared / each);
        }
    }
    table::print(&records);
    let ratio = Summary::of(ratios).context("no run has both sides")?;
    println!(
        "shared syncs: {} times as many publishes, in runs of {} s",
        table::shown(ratio),
        short(lasts.as_secs_f64())
    );
    Ok(())
}

/// Measures one side. Each publisher publishes one message after the other for the time `lasts`.
fn measure(directory: &Path, most: usize, publishers: u32, lasts: Duration) -> Result<Figures> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let journal = Arc::new(open(directory, most)?);
        let mut upkeep = JoinSet::new();
        let running = Arc::clone(&journal);
        upkeep.spawn(async move { running.run().await });
        let (next, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let mut publishing = JoinSet::new();
        for _ in 0..publishers {
            publishing.spawn(publish(Arc::clone(&journal), Arc::clone(&next), began + lasts));
        }
        let mut took = histogram()?;
        while let Some(published) = publishing.join_next().await {
            took.add(published??)?;
        }
        let elapsed = began.elapsed();
        upkeep.shutdown().await;
        let mut figures = Figures::default();
        figures.set("published_per_s", to_f64(took.len()) / elapsed.as_secs_f64());
        figures.set("p50_us", to_f64(took.value_at_quantile(0.5)));
        figures.set("p99_us", to_f64(took.value_at_quantile(0.99)));
        Ok(figures)
    })
}

fn open(directory: &Path, most: usize) -> Result<Journal> {
    let mut config = Config::default();
    (config.engine, config.sync) = (EngineKind::Journal, SyncWhen::Always);
    config.data_dir = Some(directory.to_owned());
    let quiet = || Logger::root(Discard, o!());
    let topics = config.topics.clone();
    let manager = |log| ConnectionManager::new(topics, log, ManagerLimits::default(), quiet());
    let (journal, _) = Journal::open(&config, &quiet(), manager)?;
    Ok(journal.with_groups_of(most))
}

/// Publishes messages until the time `until`. Returns the durations of the publishes in microseconds.
async fn publish(journal: Arc<Journal>, next: Arc<AtomicU64>, until: Instant) -> Result<Histogram<u64>> {
    let mut took = histogram()?;
    while Instant::now() < until {
        let draft = draft(next.fetch_add(1, Ordering::Relaxed))?;
        let began = Instant::now();
        let published = journal.publish(vec![draft], None).await?;
        ensure!(published.counts.unchanged == 0, "a message did not change its key: expected new data in each message");
        took.saturating_record(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(took)
}

fn draft(number: u64) -> Result<Draft> {
    let mut data = format!(r#"{{"number":{number},"pad":""#);
    data.extend(std::iter::repeat_n('x', BYTES - 2 - data.len()));
    data.push_str("\"}");
    let key = Some(format!("e{}/1x2/bench", number % KEYS).parse()?);
    let payload = Payload { key, kind: None, data: RawValue::from_string(data)?, expires_at: None };
    Ok(Draft { topic: "odds_updates".parse()?, payload })
}

/// A histogram of durations in microseconds. Durations above a minute count as a minute.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(60_000_000, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_publish_messages_of_the_given_length() -> Result<()> {
        assert_eq!(draft(7)?.payload.data.get().len(), BYTES);
        for (most, _) in SIDES {
            let directory = tempfile::tempdir()?;
            let figures = measure(directory.path(), most, 4, Duration::from_millis(50))?;
            assert!(figures.get("published_per_s").is_some_and(|rate| rate > 0.0));
        }
        Ok(())
    }
}

//! What sharing a sync is worth: many publishers at the same time on a real journal in this process, with `sync=always`,
//! once with groups as they come and once with a sync for each publish. Nothing else differs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use oddswire::config::{Config, EngineKind, SyncWhen};
use oddswire::engine::{Engine as _, Journal};
use oddswire::manager::{ConnectionManager, Limits};
use oddswire::message::{Draft, Payload};
use serde_json::value::RawValue;
use slog::{Discard, Logger, o};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::cli::GroupCommitArgs;
use crate::record::{self, Figures, Record};
use crate::statistics::{Summary, short, to_f64};
use crate::table;

/// The most publishes to a sync, and what that is called.
const SIDES: [(usize, &str); 2] = [(1, "a sync each"), (usize::MAX, "shared syncs")];

/// As many keys as the scenario `engines` has, and messages as long.
const KEYS: u64 = 10_000;
const BYTES: usize = 200;

/// Measures both sides in turn, and prints what came of it.
pub fn run(args: &GroupCommitArgs) -> Result<()> {
    let lasts = Duration::from_secs(args.seconds);
    let parent = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    let (mut records, mut ratios) = (Vec::new(), Vec::new());
    for run in 1..=args.runs {
        let mut rates = Vec::new();
        for (most, name) in SIDES {
            let directory = tempfile::tempdir_in(&parent).context("could not create a directory for the journal")?;
            let figures = measure(directory.path(), most, args.publishers, lasts)?;
            rates.extend(figures.get("published_per_s"));
            let case = format!("group-commit-{}", args.publishers);
            let record = Record { case, server: name.to_owned(), run, figures };
            args.record.as_deref().map_or(Ok(()), |file| record::append(file, &record))?;
            records.push(record);
        }
        if let [each, shared] = rates[..] {
            ratios.push(shared / each);
        }
    }
    table::print(&records);
    let ratio = Summary::of(ratios).context("a run has both sides")?;
    println!(
        "shared syncs: {} times as many, in runs of {} s side by side",
        table::shown(ratio),
        short(lasts.as_secs_f64())
    );
    Ok(())
}

/// Publishes one message after the other from each publisher, and how that went.
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
    let manager = |log| ConnectionManager::new(topics, log, Limits::default(), quiet());
    let (journal, _) = Journal::open(&config, &quiet(), manager)?;
    Ok(journal.with_groups_of(most))
}

/// How long each publish of one publisher took, in microseconds.
async fn publish(journal: Arc<Journal>, next: Arc<AtomicU64>, until: Instant) -> Result<Histogram<u64>> {
    let mut took = histogram()?;
    while Instant::now() < until {
        let draft = draft(next.fetch_add(1, Ordering::Relaxed))?;
        let began = Instant::now();
        let published = journal.publish(vec![draft], None).await?;
        ensure!(published.counts.unchanged == 0, "each message says something new");
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

/// Up to a minute; longer ones count as that.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(60_000_000, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_publish_and_a_message_is_as_long_as_it_is_to_be() -> Result<()> {
        assert_eq!(draft(7)?.payload.data.get().len(), BYTES);
        for (most, _) in SIDES {
            let directory = tempfile::tempdir()?;
            let figures = measure(directory.path(), most, 4, Duration::from_millis(50))?;
            assert!(figures.get("published_per_s").is_some_and(|rate| rate > 0.0));
        }
        Ok(())
    }
}

//! `oddswire demo`: simulates a market, and publishes its prices to the server over HTTP, like scrapers.
//!
//! [`market`] simulates events and their odds, [`prices`] how bookmakers price an event, and [`scrape`] scrape runs that
//! report their progress.

mod market;
mod prices;
mod scrape;

use std::time::Duration;

use fastrand::Rng;
use oddswire::message::Timestamp;
use oddswire::server::Server;
use slog::{Logger, error, info, warn};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use self::market::{EVENTS, Market};
use self::prices::BOOKMAKERS;
use self::scrape::Runs;
use super::publish::publisher::{NotTaken, Publisher};
use super::publish::{Bar, Batch};
use super::settings::{Demo, Target};
use super::{Failure, counted, print};
use crate::endpoint::Endpoint;

/// Interval between publishes.
const TICK: Duration = Duration::from_millis(100);
/// The maximum number of messages in one request.
const BATCH_MESSAGES: usize = 500;
/// The maximum length of a request body, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// How long to retry a request: practically without end, because the server runs in this process.
const RETRY_FOR: Duration = Duration::from_hours(24);

/// Publishes a market to this server until the caller drops the returned tasks.
pub(crate) fn feed(demo: &Demo, server: &Server, logger: &Logger) -> JoinSet<()> {
    let endpoint = Endpoint::of_listener(server.local_addr());
    // Ignore the error: standard output may be closed, and the demo works without the greeting.
    let _: Result<(), Failure> = print(greeting(demo, &endpoint, server.admin_addr().map(Endpoint::of_listener)));
    let token = demo.config.publish_token.clone().expect("`Demo::check` makes a token if none is set");
    let target = Target { url: endpoint, token: None, token_file: None, retry_for: RETRY_FOR };
    let (feed, logger) = (MarketFeed { rate: demo.rate, seed: demo.seed }, logger.clone());
    let mut feeding = JoinSet::new();
    feeding.spawn(async move {
        match Publisher::new(&target, token, Bar::none()) {
            Ok(publisher) => feed.run(publisher, &logger).await,
            Err(failure) => error!(logger, "demo.failed"; "error" => failure.to_string()),
        }
    });
    feeding
}

fn greeting(demo: &Demo, url: &Endpoint, admin: Option<Endpoint>) -> String {
    let (count, rate) = (BOOKMAKERS.len(), counted(demo.rate as u64, "change"));
    let top = admin.map(|admin| format!("  what it costs:      oddswire top --url {admin}\n")).unwrap_or_default();
    format!(
        "oddswire demo: {EVENTS} events, {count} bookmakers, {rate} per second. Ctrl-C ends it.\n  \
         the console:        {url}/\n  \
         what is published:  oddswire tail --url {url}\n\
         {top}"
    )
}

/// The settings of the market.
#[derive(Debug, Clone, Copy)]
struct MarketFeed {
    rate: usize,
    seed: Option<u64>,
}

impl MarketFeed {
    async fn run(self, mut publisher: Publisher, logger: &Logger) {
        let mut rng = self.seed.map_or_else(Rng::new, Rng::with_seed);
        let mut market = Market::new(&mut rng, Timestamp::now());
        let mut runs = Runs::default();
        info!(logger, "demo.started"; "rate" => self.rate);
        let mut ticks = tokio::time::interval(TICK);
        // Each tick publishes everything that is due, so ticks that were missed can be skipped.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (began, mut changes, mut refused) = (Instant::now(), 0, false);
        loop {
            ticks.tick().await;
            let now = Timestamp::now();
            let mut messages = runs.step(&mut rng, &mut market, now);
            let due = began.elapsed().as_millis() * self.rate as u128 / 1000;
            // After a pause of the machine, publish at most one second's worth of changes and skip the rest.
            let due = usize::try_from(due).unwrap_or(usize::MAX).saturating_sub(changes);
            changes += due;
            messages.extend(market.changes(&mut rng, now, due.min(self.rate)));
            let taken = publish(&mut publisher, messages).await;
            // The server may refuse a batch, for example if a price has expired. The demo then continues. It logs only
            // the first of several refusals in a row.
            if let Err(not_taken) = &taken
                && !refused
            {
                warn!(logger, "demo.refused"; "error" => not_taken.to_string());
            }
            refused = taken.is_err();
        }
    }
}

async fn publish(publisher: &mut Publisher, messages: Vec<String>) -> Result<(), NotTaken> {
    let mut batch = Batch::default();
    for message in messages {
        if batch.is_full_for(&message, BATCH_MESSAGES, BATCH_BYTES) {
            publisher.deliver(&std::mem::take(&mut batch), None).await?;
        }
        batch.push(0, message);
    }
    if !batch.is_empty() {
        publisher.deliver(&batch, None).await?;
    }
    Ok(())
}

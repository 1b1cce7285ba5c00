//! `oddswire demo`: the real server, and a market that publishes to it over HTTP as scrapers would.
//!
//! `market` is the market, `prices` how bookmakers see an event, `scrape` the runs that report their progress.

mod market;
mod prices;
mod scrape;

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use slog::{Logger, error, info, warn};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use self::market::{EVENTS, Market};
use self::prices::BOOKMAKERS;
use self::scrape::Runs;
use super::publish::publisher::{NotTaken, Publisher};
use super::publish::{Bar, Batch};
use super::{Failure, print};
use crate::auth::Token;
use crate::config::commands::{Demo, Target};
use crate::health;
use crate::message::Timestamp;

/// What is due is published this often.
const TICK: Duration = Duration::from_millis(100);
/// One request has this many messages at most.
const BATCH_MESSAGES: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
/// A server that is away for longer than this has another end than the market's.
const RETRY_FOR: Duration = Duration::from_hours(24);

/// What a market is made with.
#[derive(Debug, Clone, Copy)]
pub struct Feed {
    rate: usize,
    seed: Option<u64>,
}

impl Feed {
    /// The market of these settings.
    #[must_use]
    pub fn of(demo: &Demo) -> Self {
        Self { rate: demo.rate, seed: demo.seed }
    }

    /// Feeds the server that listens there, until the result is dropped.
    #[must_use]
    pub fn start(self, listen: SocketAddr, admin: Option<SocketAddr>, token: &Token, logger: &Logger) -> JoinSet<()> {
        let url = format!("http://{}", health::reachable(listen));
        let target = Target {
            url: url.parse().expect("an address makes a URL"),
            token: Some(token.clone()),
            token_file: None,
            retry_for: RETRY_FOR,
        };
        // Nobody may be there to read it, which is nothing that a demonstration has to end for.
        let _: Result<(), Failure> = print(self.greeting(&url, admin));
        let (token, logger) = (token.clone(), logger.clone());
        let mut feeding = JoinSet::new();
        feeding.spawn(async move {
            match Publisher::new(&target, token, Bar::none()) {
                Ok(publisher) => self.feed(publisher, &logger).await,
                Err(failure) => error!(logger, "demo.failed"; "error" => failure.to_string()),
            }
        });
        feeding
    }

    fn greeting(self, url: &str, admin: Option<SocketAddr>) -> String {
        let count = BOOKMAKERS.len();
        let first = format!("oddswire demo: {EVENTS} events, {count} bookmakers, {} changes a second.", self.rate);
        let top =
            admin.map(|admin| format!("  what it costs:      oddswire top http://{}\n", health::reachable(admin)));
        format!(
            "{first} Ctrl-C ends it.\n  the console:        {url}/\n  what is published:  oddswire tail {url}\n{}",
            top.unwrap_or_default()
        )
    }

    async fn feed(self, mut publisher: Publisher, logger: &Logger) {
        let mut rng = self.seed.map_or_else(Rng::new, Rng::with_seed);
        let mut market = Market::new(&mut rng, Timestamp::now());
        let mut runs = Runs::default();
        info!(logger, "demo.started"; "rate" => self.rate);
        let mut ticks = tokio::time::interval(TICK);
        // What is late is published with what follows; there is no need for as many requests.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (began, mut changes, mut refused) = (Instant::now(), 0, false);
        loop {
            ticks.tick().await;
            let now = Timestamp::now();
            let mut messages = runs.step(&mut rng, &mut market, now);
            let due = began.elapsed().as_millis() * self.rate as u128 / 1000;
            // After a pause of the machine the market goes on from where it is: it has no debt to pay.
            let due = usize::try_from(due).unwrap_or(usize::MAX).saturating_sub(changes);
            changes += due;
            messages.extend(market.changes(&mut rng, now, due.min(self.rate)));
            let taken = publish(&mut publisher, messages).await;
            // A price may have expired while the server was away. The market goes on, and this is said once in a row.
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

//! The engine of many nodes: one stream in Redis (or Valkey) orders and keeps what all of them publish.
//!
//! An entry's id is the message's position. A node delivers what it reads from the stream, its own publishes included: one
//! way of delivery, one order on every node. What is published is taken by a script, with the state that it makes, or not
//! at all.
//!
//! Invariants: the log holds what the stream says up to `applied`, without a hole; where the stream does not go on from
//! there, the log is read anew and every client is told what that means for it.
//!
//! - `broker`: where it is, and connections to it.
//! - `scripts`: what runs in it.
//! - `entry`: what stands in it.
//! - `bootstrap`: how a node gets the log from it; `follower`: how it keeps up with it.

mod bootstrap;
mod broker;
mod entry;
mod follower;
mod scripts;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::{ErrorKind, ServerErrorKind};
use slog::{Logger, info, warn};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};

pub use self::broker::BrokerUrlError;
use self::broker::{Broker, Link};
use self::scripts::{CallError, Names, Scripts, Seen, Standing, Taken, nonce};
use super::{Broadcast, Engine, EngineError, IdempotencyKey, PublishError, Readiness};
use crate::log::{Limits, StateFull};
use crate::manager::{ConnectionManager, Counts, Published};
use crate::message::{Draft, Position};
use crate::topic::{Topic, Topics};

/// Entries that the stream keeps at least: for nodes that come a little late.
const LEAST_ENTRIES: usize = 1000;
/// How long a publisher is kept waiting for both, and how often it is looked.
const LONGEST_SETTLE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(100));
/// How long is waited until a node has delivered what it has answered, or what a client has from another node.
const LONGEST_LAG: Duration = Duration::from_secs(1);

/// Where the broker is, and what is kept there.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The broker's URL.
    pub url: &'a str,
    /// Certificates that its own is checked against, in PEM; the system's where there is none.
    pub root_certificates: Option<Vec<u8>>,
    /// What the names of everything there begin with.
    pub namespace: &'a str,
    /// What is kept of each topic.
    pub limits: Limits,
}

/// Who waits for broadcasts of its own to be delivered here, by their nonces.
type Waiters = Mutex<HashMap<String, oneshot::Sender<usize>>>;

/// A wait for a broadcast, forgotten when it is dropped.
struct Waiting<'a> {
    waiters: &'a Waiters,
    nonce: String,
}

impl<'a> Waiting<'a> {
    fn new(waiters: &'a Waiters) -> (Self, oneshot::Receiver<usize>) {
        let (told, sent) = oneshot::channel();
        let nonce = nonce();
        lock(waiters).insert(nonce.clone(), told);
        (Self { waiters, nonce }, sent)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.waiters).remove(&self.nonce);
    }
}

/// Orders and keeps messages in Redis.
pub struct Redis {
    manager: ConnectionManager,
    broker: Broker,
    names: Names,
    scripts: Scripts,
    limits: Limits,
    /// Entries that the stream is to keep at most.
    entries: u64,
    /// The connection for everything but reading the stream, while there is one.
    link: watch::Sender<Option<Link>>,
    /// How far the log has come.
    applied: watch::Sender<Seen>,
    /// The broker's process that the log comes from; empty before there was one.
    process: Mutex<String>,
    /// How far the broadcasts have come.
    heard: Mutex<Option<Position>>,
    waiting: Waiters,
    /// Why there is no link.
    absent: Mutex<String>,
    /// Asked for by whoever finds that the broker is not the one that was joined.
    rejoin: Notify,
    logger: Logger,
}

impl Redis {
    /// An engine that delivers through the manager, whose log it replaces. It connects once it runs.
    pub fn new(settings: Settings<'_>, manager: ConnectionManager, logger: Logger) -> Result<Self, EngineError> {
        let Settings { url, root_certificates, namespace, limits } = settings;
        let broker = Broker::parse(url, root_certificates)?;
        let topics = manager.topics().clone();
        let entries = limits.history_messages.saturating_mul(topics.iter().count()).max(LEAST_ENTRIES);
        let names = Names::new(namespace);
        let scripts = Scripts::new(names.clone(), topics, limits.clone());
        Ok(Self {
            manager,
            broker,
            names,
            scripts,
            limits,
            entries: entries as u64,
            link: watch::Sender::new(None),
            applied: watch::Sender::new(Seen::nothing()),
            process: Mutex::default(),
            heard: Mutex::default(),
            waiting: Mutex::default(),
            absent: Mutex::new("the broker is not reached yet".to_owned()),
            rejoin: Notify::new(),
            logger,
        })
    }

    /// Whether the URL names a broker, whatever is there.
    pub fn check(url: &str) -> Result<(), BrokerUrlError> {
        Broker::parse(url, None).map(drop)
    }

    fn topics(&self) -> &Topics {
        self.manager.topics()
    }

    fn seen(&self) -> Seen {
        self.applied.borrow().clone()
    }

    fn standing(&self) -> Standing {
        Standing { seen: self.seen(), process: lock(&self.process).clone() }
    }

    /// Whether there is a log to serve.
    fn is_warm(&self) -> bool {
        self.applied.borrow().position.epoch > 0
    }

    fn why_absent(&self) -> String {
        lock(&self.absent).clone()
    }

    /// Offers a batch until the broker takes or refuses it.
    async fn offer(&self, batch: &[Draft], key: Option<&IdempotencyKey>) -> Result<Taken, PublishError> {
        let (longest, look) = LONGEST_SETTLE;
        let deadline = Instant::now() + longest;
        loop {
            let mut link = self.link()?;
            let offered = self.scripts.publish(&mut link, &self.standing(), batch, key).await;
            match offered.map_err(|error| self.refused(&error))? {
                Taken::Settling(_) if Instant::now() >= deadline => {
                    return Err(PublishError::Unavailable("the broker has only just come back".to_owned()));
                }
                // It is settled earlier where a node finds what it has seen.
                Taken::Settling(ms) => {
                    tokio::time::sleep_until(Instant::now() + Duration::from_millis(ms).min(look)).await;
                }
                taken => return Ok(taken),
            }
        }
    }

    fn link(&self) -> Result<Link, PublishError> {
        self.link.borrow().clone().ok_or_else(|| self.unavailable())
    }

    fn unavailable(&self) -> PublishError {
        PublishError::Unavailable(format!("the broker is away ({})", self.why_absent()))
    }

    /// What a call that came to nothing means to a publisher.
    fn refused(&self, error: &CallError) -> PublishError {
        warn!(self.logger, "redis.call_failed"; "error" => %error);
        let CallError::Broker(broker) = error else { return PublishError::Unknown(error.to_string()) };
        match broker.kind() {
            // It does not know the script, so it is a new process; or no master any more.
            ErrorKind::Server(ServerErrorKind::NoScript | ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
                self.rejoin.notify_one();
                PublishError::Unavailable(format!("the broker has changed ({broker})"))
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                PublishError::Unavailable(format!("the broker refuses it ({broker})"))
            }
            _ if broker.is_connection_refusal() => PublishError::Unavailable(format!("the broker is away ({broker})")),
            _ => PublishError::Unknown(format!("the broker did not answer ({broker})")),
        }
    }

    /// Waits, but not for long, until a position is delivered here.
    async fn delivered(&self, position: Position) {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|seen| !is_before(seen.position, position));
        if timeout(LONGEST_LAG, reached).await.is_err() {
            info!(self.logger, "redis.lags"; "position" => %position);
        }
    }

    fn count(&self, batch: &[Draft], unchanged: &[usize]) {
        let mut counts: BTreeMap<&Topic, Counts> = BTreeMap::new();
        for draft in batch {
            counts.entry(&draft.topic).or_default().accepted += 1;
        }
        for draft in unchanged.iter().filter_map(|at| batch.get(*at)) {
            counts.entry(&draft.topic).or_default().unchanged += 1;
        }
        for (topic, counts) in counts {
            self.manager.metrics().published(topic, counts.accepted, counts.unchanged);
        }
    }

    async fn publish_batch(&self, batch: Vec<Draft>, key: Option<IdempotencyKey>) -> Result<Published, PublishError> {
        let published = match self.offer(&batch, key.as_ref()).await? {
            Taken::Now { position, unchanged } => {
                self.count(&batch, &unchanged);
                Published { counts: Counts { accepted: batch.len(), unchanged: unchanged.len() }, position }
            }
            taken => self.repeated(&taken, &batch)?,
        };
        self.delivered(published.position).await;
        Ok(published)
    }

    /// What becomes of a batch that has not been taken just now.
    fn repeated(&self, taken: &Taken, batch: &[Draft]) -> Result<Published, PublishError> {
        match taken {
            Taken::Before(answer) => {
                let counts = Counts { accepted: answer.accepted, unchanged: answer.unchanged };
                Ok(Published { counts, position: answer.position })
            }
            Taken::KeyReused => Err(PublishError::KeyReused),
            Taken::Full(index) => match batch.get(*index) {
                Some(Draft { topic, .. }) => {
                    Err(StateFull { index: *index, topic: topic.clone(), state_keys: self.limits.state_keys }.into())
                }
                None => Err(PublishError::Unavailable("the broker refuses a message that was not offered".to_owned())),
            },
            Taken::Now { .. } | Taken::Settling(_) => Err(self.unavailable()),
        }
    }
}

impl Engine for Redis {
    fn answered(&self, key: &IdempotencyKey) -> BoxFuture<'_, Result<Option<Published>, PublishError>> {
        let key = key.clone();
        async move {
            let mut link = self.link()?;
            let answered = self.scripts.answered(&mut link, &key).await;
            match answered.map_err(|error| self.refused(&error))? {
                None => Ok(None),
                Some(taken) => self.repeated(&taken, &[]).map(Some),
            }
        }
        .boxed()
    }

    fn publish(
        &self,
        batch: Vec<Draft>,
        key: Option<IdempotencyKey>,
    ) -> BoxFuture<'_, Result<Published, PublishError>> {
        self.publish_batch(batch, key).boxed()
    }

    fn broadcast(&self, broadcast: Broadcast) -> BoxFuture<'_, Result<usize, PublishError>> {
        async move {
            let mut link = self.link()?;
            let (waiting, sent) = Waiting::new(&self.waiting);
            let offered = self.scripts.broadcast(&mut link, &waiting.nonce, &broadcast).await;
            offered.map_err(|error| self.refused(&error))?;
            let sent = timeout(LONGEST_LAG, sent).await.ok().and_then(Result::ok);
            Ok(sent.unwrap_or_else(|| self.manager.active_count()))
        }
        .boxed()
    }

    fn run(&self) -> BoxFuture<'_, ()> {
        self.keep_up().boxed()
    }

    fn readiness(&self) -> Readiness {
        if self.link.borrow().is_some() {
            return Readiness::Ready;
        }
        let why = self.why_absent();
        if self.is_warm() { Readiness::Degraded(why) } else { Readiness::Starting(why) }
    }

    fn reach(&self, position: Position) -> BoxFuture<'_, ()> {
        async move {
            if is_before(self.applied.borrow().position, position) {
                self.delivered(position).await;
            }
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a node that has come to one position has yet to come to the other.
fn is_before(one: Position, other: Position) -> bool {
    (one.epoch, one.offset) < (other.epoch, other.offset)
}

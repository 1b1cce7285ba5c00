//! The engine `redis` for many nodes: one stream in Redis or Valkey orders and keeps the messages of all nodes.
//!
//! The id of a stream entry is the position of the message. A node delivers the messages that it reads from the stream,
//! including its own, so all nodes deliver in one order. A script stores a batch together with the new state, or
//! nothing.
//!
//! Invariants: the log follows the stream up to the entry `applied`, without a gap. If the next entry does not continue
//! from there, the node reads the whole log again, and its clients get a new catch-up.
//!
//! - `broker`: the broker's URL, and connections to the broker.
//! - `scripts`: the scripts that run in the broker.
//! - `entry`: entries of the stream and values of the states.
//! - `bootstrap`: how a node reads the log.
//! - `follower`: how a node follows the stream.

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
use self::scripts::{CallError, LastSeen, Names, NodeState, OfferOutcome, Scripts, nonce};
use super::{Broadcast, Engine, EngineError, IdempotencyKey, PublishError, Readiness};
use crate::log::{LogLimits, StateFull};
use crate::manager::{ConnectionManager, Counts, Published};
use crate::message::{Draft, Position};
use crate::topic::{Topic, Topics};

/// The minimum number of entries that the stream keeps, for nodes that are behind.
const LEAST_ENTRIES: usize = 1000;
/// The maximum time that a publisher waits until the broker accepts batches after a restart or a failover, and the
/// maximum time between two attempts.
const LONGEST_SETTLE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(100));
/// The maximum time that a request waits until this node has delivered a message. The request confirms that message, or
/// its client got it from another node.
const LONGEST_LAG: Duration = Duration::from_secs(1);

/// The settings of the engine.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The broker's URL.
    pub url: &'a str,
    /// The root certificates, in PEM, with which the broker's certificate is verified. `None` means the certificates of
    /// the system.
    pub root_certificates: Option<Vec<u8>>,
    /// The common prefix of all names in the broker.
    pub namespace: &'a str,
    /// The limits of each topic.
    pub limits: LogLimits,
}

/// Requests that wait until their broadcasts are delivered on this node, by nonce.
type Waiters = Mutex<HashMap<String, oneshot::Sender<usize>>>;

/// A request's wait for its broadcast. Dropping it removes the entry from the waiters.
struct BroadcastWait<'a> {
    waiters: &'a Waiters,
    nonce: String,
}

impl<'a> BroadcastWait<'a> {
    fn new(waiters: &'a Waiters) -> (Self, oneshot::Receiver<usize>) {
        let (told, sent) = oneshot::channel();
        let nonce = nonce();
        lock(waiters).insert(nonce.clone(), told);
        (Self { waiters, nonce }, sent)
    }
}

impl Drop for BroadcastWait<'_> {
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
    limits: LogLimits,
    /// The maximum number of entries that the stream should keep.
    entries: u64,
    /// The connection for everything except reading the stream. `None` while the node is not connected.
    link: watch::Sender<Option<Link>>,
    /// The last stream entry that is in the log.
    applied: watch::Sender<LastSeen>,
    /// The broker's process (`run_id`) that this node joined last. Empty before the node has joined one.
    process: Mutex<String>,
    /// The last broadcast that this node has sent to its clients.
    heard: Mutex<Option<Position>>,
    waiting: Waiters,
    /// Why `link` is `None`.
    absent: Mutex<String>,
    /// Notified when a call shows that the broker was restarted, or that another server is the master now.
    rejoin: Notify,
    logger: Logger,
}

impl Redis {
    /// An engine that delivers through the manager, and replaces the manager's log. [`Engine::run`] connects to the
    /// broker.
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
            applied: watch::Sender::new(LastSeen::nothing()),
            process: Mutex::default(),
            heard: Mutex::default(),
            waiting: Mutex::default(),
            absent: Mutex::new("no connection to the broker yet".to_owned()),
            rejoin: Notify::new(),
            logger,
        })
    }

    /// Checks the form of the URL, without connecting.
    pub fn check(url: &str) -> Result<(), BrokerUrlError> {
        Broker::parse(url, None).map(drop)
    }

    fn topics(&self) -> &Topics {
        self.manager.topics()
    }

    fn seen(&self) -> LastSeen {
        self.applied.borrow().clone()
    }

    fn node_state(&self) -> NodeState {
        NodeState { seen: self.seen(), process: lock(&self.process).clone() }
    }

    /// Whether the node has a log to serve.
    fn is_warm(&self) -> bool {
        self.applied.borrow().position.epoch > 0
    }

    fn why_absent(&self) -> String {
        lock(&self.absent).clone()
    }

    /// Offers a batch until the broker accepts or refuses it.
    async fn offer(&self, batch: &[Draft], key: Option<&IdempotencyKey>) -> Result<OfferOutcome, PublishError> {
        let (longest, look) = LONGEST_SETTLE;
        let deadline = Instant::now() + longest;
        loop {
            let mut link = self.link()?;
            let offered = self.scripts.publish(&mut link, &self.node_state(), batch, key).await;
            match offered.map_err(|error| self.refused(&error))? {
                OfferOutcome::Settling(_) if Instant::now() >= deadline => {
                    return Err(PublishError::Unavailable(
                        "the broker was replaced a moment ago and accepts no messages yet".to_owned(),
                    ));
                }
                // Try again before `ms` have passed, because the broker may accept batches as soon as a node finds its
                // last entry.
                OfferOutcome::Settling(ms) => {
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
        PublishError::Unavailable(format!("the broker is unreachable ({})", self.why_absent()))
    }

    /// The error for the publisher after a failed call.
    fn refused(&self, error: &CallError) -> PublishError {
        warn!(self.logger, "redis.call_failed"; "error" => %error);
        let CallError::Broker(broker) = error else { return PublishError::Unknown(error.to_string()) };
        match broker.kind() {
            // A server without the script was restarted, or is another server. The other two errors come from a server
            // that is not the master.
            ErrorKind::Server(ServerErrorKind::NoScript | ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
                self.rejoin.notify_one();
                PublishError::Unavailable(format!("the broker was replaced ({broker})"))
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                PublishError::Unavailable(format!("the broker refused the request ({broker})"))
            }
            _ if broker.is_connection_refusal() => {
                PublishError::Unavailable(format!("the broker is unreachable ({broker})"))
            }
            _ => PublishError::Unknown(format!("the broker did not answer ({broker})")),
        }
    }

    /// Waits until this node has delivered the messages up to a position, at most for [`LONGEST_LAG`].
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
            OfferOutcome::Accepted { position, unchanged } => {
                self.count(&batch, &unchanged);
                Published { counts: Counts { accepted: batch.len(), unchanged: unchanged.len() }, position }
            }
            taken => self.repeated(&taken, &batch)?,
        };
        self.delivered(published.position).await;
        Ok(published)
    }

    /// The result for a batch that was not accepted by this call.
    fn repeated(&self, taken: &OfferOutcome, batch: &[Draft]) -> Result<Published, PublishError> {
        match taken {
            OfferOutcome::Repeated(answer) => {
                let counts = Counts { accepted: answer.accepted, unchanged: answer.unchanged };
                Ok(Published { counts, position: answer.position })
            }
            OfferOutcome::KeyReused => Err(PublishError::KeyReused),
            OfferOutcome::Full(index) => match batch.get(*index) {
                Some(Draft { topic, .. }) => {
                    Err(StateFull { index: *index, topic: topic.clone(), state_keys: self.limits.state_keys }.into())
                }
                None => {
                    Err(PublishError::Unavailable("the broker refused a message that is not in the batch".to_owned()))
                }
            },
            OfferOutcome::Accepted { .. } | OfferOutcome::Settling(_) => Err(self.unavailable()),
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
            let (waiting, sent) = BroadcastWait::new(&self.waiting);
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

/// Whether position `one` comes before position `other`.
fn is_before(one: Position, other: Position) -> bool {
    (one.epoch, one.offset) < (other.epoch, other.offset)
}

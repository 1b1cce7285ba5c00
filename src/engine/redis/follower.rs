//! How a node follows the broker: it joins, reads the streams, delivers new entries, and maintains the namespace.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::Value;
use slog::{debug, info, warn};
use tokio::time::{Instant, MissedTickBehavior};

use super::bootstrap::{BootstrapError, LogSource};
use super::broker::Link;
use super::entry::{StreamEntry, of_xrange, of_xread};
use super::scripts::{CallError, LastSeen, Tending};
use super::{LEAST_ENTRIES, Redis, is_before, lock};
use crate::engine::{EXPIRED_AT_ONCE, EXPIRY_RESOLUTION};
use crate::message::{Position, Timestamp};

/// How long `XREAD` waits for new entries, in milliseconds. It must be shorter than the response timeout.
const BLOCK_MS: usize = 1000;
/// The maximum number of entries that are read and delivered at once.
const READ_ENTRIES: usize = 512;
/// How long the stream keeps entries that this node no longer needs, because other nodes may read more slowly.
const LATE: Duration = Duration::from_secs(10);
/// How long the broker refuses batches after a restart or a failover. Meanwhile nodes report the last entry that they
/// have seen, because the broker may have lost that entry.
///
/// If the broker refuses connections, a node can try several times within this time ([`BACKOFF`]). If packets are
/// dropped, a single attempt may take longer.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the broker waits, after a restart or a failover, for a node that finds its last entry in the stream. Then a
/// new epoch begins, because all nodes may have ended together with the broker.
const PROOF: Duration = Duration::from_millis(2500);
/// The first and the maximum wait before an attempt to reconnect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// The maximum number of attempts to read the log while the sequence changes.
const BOOTSTRAP_ATTEMPTS: usize = 20;

/// Why a connection to the broker has ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the stream cannot be read from Redis: {0}")]
    Bootstrap(#[from] BootstrapError),
    #[error("Redis was restarted, or another Redis server took its place")]
    Replaced,
}

impl From<redis::RedisError> for LinkError {
    fn from(error: redis::RedisError) -> Self {
        Self::Call(error.into())
    }
}

impl Redis {
    /// Follows the broker, and reconnects whenever the connection is lost.
    pub(super) async fn keep_up(&self) {
        let (first, longest) = BACKOFF;
        let mut backoff = first;
        loop {
            let mut joined = false;
            let error = self.follow(&mut joined).await;
            self.link.send_replace(None);
            backoff = if joined { first } else { (backoff * 2).min(longest) };
            // Wait for a random time, so that nodes that lost the broker at the same moment do not reconnect at the
            // same moment.
            let wait = backoff.mul_f64(fastrand::f64());
            self.note_loss(joined, &error, wait);
            tokio::time::sleep_until(Instant::now() + wait).await;
        }
    }

    /// Connects, and follows the stream until an error occurs.
    async fn follow(&self, joined: &mut bool) -> LinkError {
        match self.try_follow(joined).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn try_follow(&self, joined: &mut bool) -> Result<Infallible, LinkError> {
        let (mut link, mut reader) = tokio::try_join!(self.broker.connect(), self.broker.connect())?;
        let position = self.join(&mut link).await?;
        let seen = self.seen();
        if seen.position.epoch != position.epoch {
            self.bootstrap(&mut link).await?;
        }
        *joined = true;
        // Several calls may have failed at once and asked for a new connection. Discard their requests, because this
        // connection is new.
        let _asked_before = self.rejoin.notified().now_or_never();
        info!(self.logger, "redis.joined"; "from" => %seen.position, "to" => %position);
        self.link.send_replace(Some(link.clone()));
        let mut spare = link.clone();
        tokio::select! {
            ended = self.read(&mut reader, &mut spare) => ended,
            ended = self.tend(&mut link) => ended,
            () = self.rejoin.notified() => Err(LinkError::Replaced),
        }
    }

    /// Logs why the connection was lost. If the reason is the same as before, it is logged at debug level.
    fn note_loss(&self, joined: bool, error: &LinkError, wait: Duration) {
        let (error, ms) = (error.to_string(), wait.as_millis());
        let before = std::mem::replace(&mut *lock(&self.absent), error.clone());
        if joined {
            self.manager.metrics().engine_lost();
        }
        if joined || before != error {
            warn!(self.logger, "redis.lost"; "error" => &error, "again_in_ms" => ms);
        } else {
            debug!(self.logger, "redis.lost"; "error" => &error, "again_in_ms" => ms);
        }
    }

    /// Tells the broker which entry this node saw last. The node calls it after each connect, before it reads more
    /// entries.
    async fn join(&self, link: &mut Link) -> Result<Position, LinkError> {
        self.scripts.load(link).await?;
        let tended = self.scripts.tend(link, &self.node_state(), &Self::tending(true, 0)).await?;
        *lock(&self.process) = tended.process;
        self.manager.metrics().engine_position(tended.position.offset, self.seen().position.offset);
        let mut call = redis::cmd("XREVRANGE");
        call.arg(self.names.broadcasts()).arg(&["+", "-", "COUNT", "1"]);
        let last = of_xrange(call.query_async(link).await?);
        let last = last.and_then(|last| last.first().map(|entry| entry.position));
        let last = last.unwrap_or(LastSeen::nothing().position);
        // A new node begins after the last broadcast, because it has no clients for older broadcasts. A returning node
        // continues after the broadcast that it sent last, unless the broker has lost that broadcast.
        let mut heard = lock(&self.heard);
        *heard = heard.filter(|heard| is_before(*heard, last)).or(Some(last));
        drop(heard);
        Ok(tended.position)
    }

    fn tending(joins: bool, needed: u64) -> Tending {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Tending { joins, settle_ms: ms(SETTLE), proof_ms: ms(PROOF), at_once: EXPIRED_AT_ONCE, needed }
    }

    /// The oldest offset that a node with the settings of this node needs.
    fn needed(&self) -> u64 {
        let (history, last) = self.manager.read_log(|log| (log.history_from(), log.position().offset));
        let slack = LEAST_ENTRIES as u64;
        history.clamp(last.saturating_sub(self.entries), last.saturating_sub(slack)) + 1
    }

    async fn bootstrap(&self, link: &mut Link) -> Result<(), LinkError> {
        let source =
            LogSource { names: &self.names, topics: self.topics(), limits: &self.limits, logger: &self.logger };
        for _ in 0..BOOTSTRAP_ATTEMPTS {
            match source.read(link).await {
                Ok((log, seen)) => {
                    self.manager.reset(log);
                    if self.is_warm() {
                        self.manager.metrics().engine_reset();
                    }
                    self.applied.send_replace(seen);
                    return Ok(());
                }
                Err(BootstrapError::Moved) => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(BootstrapError::Moved.into())
    }

    /// Reads the new entries of the streams, and delivers them.
    async fn read(&self, reader: &mut Link, link: &mut Link) -> Result<Infallible, LinkError> {
        let (log, broadcasts) = (self.names.log(), self.names.broadcasts());
        loop {
            let mut call = redis::cmd("XREAD");
            call.arg("COUNT").arg(READ_ENTRIES).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(&log).arg(&broadcasts);
            let heard = lock(&self.heard).unwrap_or(LastSeen::nothing().position);
            call.arg(self.seen().position.to_string()).arg(heard.to_string());
            let answer: Value = call.query_async(reader).await?;
            let streams =
                of_xread(answer).ok_or_else(|| CallError::Unexpected("XREAD returned no stream entries".to_owned()))?;
            for (name, entries) in streams {
                if name == broadcasts {
                    self.tell_all(&entries);
                } else if !self.deliver(&entries) {
                    self.bootstrap(link).await?;
                }
            }
        }
    }

    /// Sends broadcasts to all connections of this node.
    fn tell_all(&self, entries: &[StreamEntry]) {
        for entry in entries {
            let sent = entry.broadcast().map(|broadcast| self.manager.broadcast_all(broadcast.frames()));
            *lock(&self.heard) = Some(entry.position);
            if let Some(waiting) = lock(&self.waiting).remove(entry.nonce()) {
                // The requester may have stopped waiting.
                let _ = waiting.send(sent.unwrap_or(0));
            }
        }
    }

    /// Delivers the entries up to the first one that does not continue the sequence. Returns `false` if there is such
    /// an entry.
    fn deliver(&self, entries: &[StreamEntry]) -> bool {
        let mut seen = self.seen();
        let mut steps = Vec::with_capacity(entries.len());
        for entry in entries {
            let next = Position { offset: seen.position.offset + 1, ..seen.position };
            if entry.position != next {
                break;
            }
            seen = LastSeen { position: entry.position, nonce: entry.nonce().to_owned() };
            steps.push(entry.step(self.topics(), &self.logger));
        }
        let all = steps.len() == entries.len();
        if !steps.is_empty() {
            self.manager.apply(steps);
            self.applied.send_replace(seen);
        }
        all
    }

    /// Maintains the namespace, for example deletes expired keys and trims the stream. Every node does this.
    async fn tend(&self, link: &mut Link) -> Result<Infallible, LinkError> {
        let mut ticks = tokio::time::interval(EXPIRY_RESOLUTION);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Trim the stream up to the offset that this node needed [`LATE`] ago, because other nodes may have read less.
        let mut needed = VecDeque::from([(Instant::now(), 0)]);
        loop {
            ticks.tick().await;
            self.manager.tend_log(|log| log.prune(Timestamp::now()));
            needed.push_back((Instant::now(), self.needed()));
            while needed.get(1).is_some_and(|(at, _)| at.elapsed() >= LATE) {
                needed.pop_front();
            }
            let needed = needed.front().map_or(0, |(_, needed)| *needed);
            loop {
                let tended = self.scripts.tend(link, &self.node_state(), &Self::tending(false, needed)).await?;
                self.manager.metrics().engine_position(tended.position.offset, self.seen().position.offset);
                if tended.expired < EXPIRED_AT_ONCE as u64 {
                    break;
                }
            }
        }
    }
}

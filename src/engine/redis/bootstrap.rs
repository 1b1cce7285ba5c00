//! How a node reads the log from the broker. State and history must fit together, although the node reads them in
//! pieces while other nodes publish.
//!
//! First the node notes the last offset of the stream. Then it reads the history and the states. A value that changed
//! meanwhile has a larger offset. The node leaves that value out, because it comes again with a later stream entry.
//! When the node has read the stream up to the newest offset in the states, its log is consistent.

use std::collections::BTreeMap;

use redis::Value;
use slog::Logger;
use thiserror::Error;

use super::broker::Link;
use super::entry::{StreamEntry, of_xrange, stored};
use super::scripts::{CallError, LastSeen, Names};
use crate::log::{Change, Log, LogEntry, LogLimits, TopicFacts};
use crate::message::{Position, Timestamp};
use crate::topic::{Topic, Topics};

/// The number of entries that one call reads from the stream or from a state.
const PIECE: usize = 500;

/// A key of a state and its stored value.
type Field = (Vec<u8>, Vec<u8>);

/// Why the log could not be read.
#[derive(Debug, Error)]
pub(super) enum BootstrapError {
    /// A call to the broker failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A new epoch began, or the stream was trimmed during the read. Another attempt can succeed.
    #[error("the sequence changed while the node read it")]
    Moved,
}

impl From<redis::RedisError> for BootstrapError {
    fn from(error: redis::RedisError) -> Self {
        Self::Call(error.into())
    }
}

/// The names in the broker from which to read the log, and the topics and limits of the log.
pub(super) struct LogSource<'a> {
    pub(super) names: &'a Names,
    pub(super) topics: &'a Topics,
    pub(super) limits: &'a LogLimits,
    pub(super) logger: &'a Logger,
}

impl LogSource<'_> {
    /// Reads the log. Returns it with the last stream entry that it contains.
    pub(super) async fn read(&self, link: &mut Link) -> Result<(Log, LastSeen), BootstrapError> {
        let end = self.end(link).await?;
        let (mut changes, mut seen, evicted) = self.history(link, end).await?;
        let mut newest = end.offset;
        for topic in self.topics.iter() {
            for change in self.state(link, topic, end.epoch).await? {
                let offset = change.message.offset();
                newest = newest.max(offset);
                if offset <= end.offset {
                    changes.insert(offset, change);
                }
            }
        }
        let facts = self.facts(link, end, evicted).await?;
        let now = Timestamp::now();
        let mut log = Log::restore(end, self.topics, self.limits.clone(), facts, changes.into_values(), now);
        while seen.position.offset < newest {
            self.follow(link, &mut log, &mut seen).await?;
        }
        Ok((log, seen))
    }

    async fn end(&self, link: &mut Link) -> Result<Position, BootstrapError> {
        let (epoch, offset): (Option<u64>, Option<u64>) =
            redis::cmd("HMGET").arg(self.names.facts()).arg(&["epoch", "last"]).query_async(link).await?;
        let (Some(epoch), Some(offset)) = (epoch, offset) else { return Err(BootstrapError::Moved) };
        Ok(Position { epoch, offset })
    }

    async fn range(&self, link: &mut Link, from: Position, to: Position) -> Result<Vec<StreamEntry>, BootstrapError> {
        let mut call = redis::cmd("XRANGE");
        call.arg(self.names.log()).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(PIECE);
        let answer: Value = call.query_async(link).await?;
        of_xrange(answer).ok_or_else(|| CallError::Unexpected("XRANGE returned no stream entries".to_owned()).into())
    }

    /// Reads the messages of the present epoch that the stream still has. Also returns the last entry, and the offset
    /// before the first entry.
    async fn history(
        &self,
        link: &mut Link,
        end: Position,
    ) -> Result<(BTreeMap<u64, Change>, LastSeen, u64), BootstrapError> {
        let mut changes = BTreeMap::new();
        let mut seen = LastSeen { position: end, nonce: String::new() };
        let mut before = None;
        let mut from = Position { epoch: end.epoch, offset: 0 };
        loop {
            let piece = self.range(link, from, end).await?;
            // The stream was trimmed during the read, so messages between the last piece and this one are missing.
            if before.is_some() && piece.first().is_none_or(|next| next.position != from) {
                return Err(BootstrapError::Moved);
            }
            for entry in &piece {
                before.get_or_insert(entry.before());
                entry.nonce().clone_into(&mut seen.nonce);
                if let Some(LogEntry::Message(change)) = entry.message(self.topics) {
                    changes.insert(entry.position.offset, change);
                }
            }
            match piece.last() {
                Some(last) if piece.len() == PIECE && last.position.offset < end.offset => {
                    from.offset = last.position.offset + 1;
                }
                _ => break,
            }
        }
        Ok((changes, seen, before.unwrap_or(end.offset)))
    }

    async fn state(&self, link: &mut Link, topic: &Topic, epoch: u64) -> Result<Vec<Change>, BootstrapError> {
        let mut changes = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut call = redis::cmd("HSCAN");
            call.arg(self.names.state(topic)).arg(&cursor).arg("COUNT").arg(PIECE);
            let (next, values): (String, Vec<Field>) = call.query_async(link).await?;
            let read = values.iter().map(|(key, value)| (key, stored(topic, key, value, epoch)));
            for (key, change) in read {
                match change {
                    Some(change) => changes.push(change),
                    None => slog::warn!(self.logger, "redis.foreign_value"; "topic" => %topic,
                        "key" => String::from_utf8_lossy(key).chars().take(80).collect::<String>()),
                }
            }
            if next == "0" {
                return Ok(changes);
            }
            cursor = next;
        }
    }

    /// Reads the facts of each topic. This comes last, so that the facts include tombstones that were dropped during
    /// the read.
    async fn facts(
        &self,
        link: &mut Link,
        end: Position,
        evicted: u64,
    ) -> Result<BTreeMap<Topic, TopicFacts>, BootstrapError> {
        let mut facts = BTreeMap::new();
        for topic in self.topics.iter() {
            let fields = ["epoch".to_owned(), format!("forgotten:{topic}"), format!("keyless:{topic}")];
            let (epoch, forgotten, keyless): (Option<u64>, Option<u64>, Option<u64>) =
                redis::cmd("HMGET").arg(self.names.facts()).arg(&fields).query_async(link).await?;
            if epoch != Some(end.epoch) {
                return Err(BootstrapError::Moved);
            }
            // `keyless` is the offset of the second newest keyless message. If the history has that message, the newest
            // lost keyless message has at most the offset `evicted`.
            let lost_keyless = keyless.map_or(0, |keyless| keyless.min(evicted));
            let topic_facts = TopicFacts {
                evicted,
                lost_keyless,
                forgotten: forgotten.unwrap_or(0),
                counted_from: evicted,
                counted_before: 0,
                counted_to: evicted,
                runs: Vec::new(),
            };
            facts.insert(topic.clone(), topic_facts);
        }
        Ok(facts)
    }

    /// Reads the stream entries after `seen`, and adds them to the log.
    async fn follow(&self, link: &mut Link, log: &mut Log, seen: &mut LastSeen) -> Result<(), BootstrapError> {
        let from = Position { offset: seen.position.offset + 1, ..seen.position };
        let to = Position { offset: u64::MAX, ..seen.position };
        let piece = self.range(link, from, to).await?;
        if piece.first().is_none_or(|first| first.position != from) {
            return Err(BootstrapError::Moved);
        }
        let now = Timestamp::now();
        for entry in piece {
            *seen = LastSeen { position: entry.position, nonce: entry.nonce().to_owned() };
            // No client uses this log yet, so nothing has to be delivered.
            drop(log.apply(entry.step(self.topics, self.logger), now));
        }
        Ok(())
    }
}

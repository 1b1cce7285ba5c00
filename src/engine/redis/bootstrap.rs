//! How a node gets the log from the broker: a state and a history that belong together, though they are read in pieces
//! while others publish.
//!
//! First it is noted where the stream ends, then history and states are read. What changed meanwhile shows by its offset
//! and is left out, and comes with the entries that follow; once those reach the newest offset that was seen, the log is
//! that of one moment.

use std::collections::BTreeMap;

use redis::Value;
use slog::Logger;
use thiserror::Error;

use super::broker::Link;
use super::entry::{StreamEntry, of_xrange, stored};
use super::scripts::{CallError, Names, Seen};
use crate::log::{Change, Entry, Limits, Log, TopicFacts};
use crate::message::{Position, Timestamp};
use crate::topic::{Topic, Topics};

/// Entries of the stream, or of a state, that are read at once.
const PIECE: usize = 500;

/// A key of a state and its value.
type Field = (Vec<u8>, Vec<u8>);

/// Why no log came of it.
#[derive(Debug, Error)]
pub(super) enum BootstrapError {
    /// The broker could not be asked.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The sequence became another one, or what was needed was dropped meanwhile: try again.
    #[error("the sequence changed while it was read")]
    Moved,
}

impl From<redis::RedisError> for BootstrapError {
    fn from(error: redis::RedisError) -> Self {
        Self::Call(error.into())
    }
}

/// Where a log is read from, and what it is to keep.
pub(super) struct Source<'a> {
    pub(super) names: &'a Names,
    pub(super) topics: &'a Topics,
    pub(super) limits: &'a Limits,
    pub(super) logger: &'a Logger,
}

impl Source<'_> {
    /// Reads the log as it stands, and how far that is.
    pub(super) async fn read(&self, link: &mut Link) -> Result<(Log, Seen), BootstrapError> {
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
        of_xrange(answer).ok_or_else(|| CallError::Odd("XRANGE of no stream".to_owned()).into())
    }

    /// The messages of the epoch that are still in the stream, what was seen last of it, and the offset before the first.
    async fn history(
        &self,
        link: &mut Link,
        end: Position,
    ) -> Result<(BTreeMap<u64, Change>, Seen, u64), BootstrapError> {
        let mut changes = BTreeMap::new();
        let mut seen = Seen { position: end, nonce: String::new() };
        let mut before = None;
        let mut from = Position { epoch: end.epoch, offset: 0 };
        loop {
            let piece = self.range(link, from, end).await?;
            // The stream was trimmed beyond what was read: there would be a hole.
            if before.is_some() && piece.first().is_none_or(|next| next.position != from) {
                return Err(BootstrapError::Moved);
            }
            for entry in &piece {
                before.get_or_insert(entry.before());
                entry.nonce().clone_into(&mut seen.nonce);
                if let Some(Entry::Message(change)) = entry.message(self.topics) {
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

    /// What is known to be gone. Read last: what was forgotten meanwhile is gone, too.
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
            // The keyless message before the newest. Where the history has it, those before are not known.
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

    /// Takes the entries after what was seen.
    async fn follow(&self, link: &mut Link, log: &mut Log, seen: &mut Seen) -> Result<(), BootstrapError> {
        let from = Position { offset: seen.position.offset + 1, ..seen.position };
        let to = Position { offset: u64::MAX, ..seen.position };
        let piece = self.range(link, from, to).await?;
        if piece.first().is_none_or(|first| first.position != from) {
            return Err(BootstrapError::Moved);
        }
        let now = Timestamp::now();
        for entry in piece {
            *seen = Seen { position: entry.position, nonce: entry.nonce().to_owned() };
            // Nobody is connected to this log yet.
            drop(log.apply(entry.step(self.topics, self.logger), now));
        }
        Ok(())
    }
}

//! A client of all topics that keeps the state and checks the contract with each message: strict order, every message
//! once, and every gap announced with the number of skipped messages.

use std::collections::{BTreeMap, BTreeSet};

use oddswire::message::Position;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The fields of a message that the follower reads.
#[derive(Deserialize)]
pub struct Envelope<'a> {
    #[serde(rename = "type")]
    pub kind: String,
    pub id: Option<String>,
    pub key: Option<String>,
    #[serde(borrow)]
    pub data: &'a RawValue,
}

#[derive(Deserialize)]
struct CatchUpData {
    topics: BTreeMap<String, TopicCatchUp>,
}

#[derive(Deserialize)]
struct TopicCatchUp {
    mode: String,
    skipped: Option<u64>,
}

#[derive(Deserialize)]
struct PositionData {
    position: String,
}

/// A catch-up that has begun but not ended.
#[derive(Debug, Default)]
struct CatchUp {
    /// The server must send every message after this offset, or count the message as skipped.
    base: u64,
    got: BTreeSet<u64>,
    skipped: u64,
    is_count_unknown: bool,
    /// A snapshot was announced, so the next message may have any position.
    snapshot_begins: bool,
    /// A second snapshot was announced, because the log no longer had deletions that belong to the first snapshot.
    /// Keyed messages may then come twice.
    snapshot_repeated: bool,
}

#[derive(Debug, Default)]
pub struct Follower {
    /// The data of each key, byte for byte.
    pub state: BTreeMap<String, String>,
    /// The position from which the client would resume after a disconnect.
    pub cursor: Option<Position>,
    /// How often each catch-up mode was announced.
    pub modes: BTreeMap<String, usize>,
    /// The number of published messages that the client has received.
    pub messages: usize,
    /// The data of the newest keyless message.
    pub keyless: Option<String>,
    accounted: u64,
    newest: u64,
    catching_up: Option<CatchUp>,
    resuming: bool,
}

impl Follower {
    /// Returns the query parameter with which the client resumes. Call this before each connection.
    pub fn resume(&mut self) -> String {
        self.resuming = self.cursor.is_some();
        self.catching_up = None;
        self.cursor.map_or_else(String::new, |cursor| format!("since={cursor}"))
    }

    /// Whether no catch-up is in progress.
    pub fn is_live(&self) -> bool {
        self.catching_up.is_none()
    }

    pub fn take(&mut self, text: &str) {
        let envelope: Envelope<'_> = serde_json::from_str(text).expect("the server sends JSON");
        match envelope.kind.as_str() {
            "connection_ack" => self.connected(&position(&envelope)),
            "catch_up" => self.catch_up_announced(&serde_json::from_str(envelope.data.get()).unwrap()),
            "caught_up" => self.caught_up(position(&envelope)),
            _ => self.message(&envelope),
        }
    }

    fn connected(&mut self, at: &Position) {
        match self.cursor {
            Some(cursor) if self.resuming => {
                let is_count_unknown = cursor.epoch != at.epoch;
                self.newest = 0;
                self.catching_up = Some(CatchUp { base: cursor.offset, is_count_unknown, ..CatchUp::default() });
            }
            _ => (self.cursor, self.accounted, self.newest) = (Some(*at), at.offset, at.offset),
        }
    }

    fn catch_up_announced(&mut self, announced: &CatchUpData) {
        let base = self.accounted;
        let catch_up = self.catching_up.get_or_insert_with(|| CatchUp { base, ..CatchUp::default() });
        for (topic, entry) in &announced.topics {
            *self.modes.entry(entry.mode.clone()).or_default() += 1;
            match entry.skipped {
                Some(skipped) => catch_up.skipped += skipped,
                None => catch_up.is_count_unknown = true,
            }
            if entry.mode == "snapshot" {
                catch_up.snapshot_begins = true;
                catch_up.snapshot_repeated |= !catch_up.got.is_empty();
                if topic == "odds_updates" {
                    self.state.clear();
                }
            }
        }
    }

    fn message(&mut self, envelope: &Envelope<'_>) {
        self.messages += 1;
        let id: Position = envelope.id.as_ref().expect("a published message has an id").parse().unwrap();
        match &mut self.catching_up {
            None => assert_eq!(id.offset, self.accounted + 1, "live messages come once and without a gap"),
            Some(catch_up) => {
                if id.offset > catch_up.base {
                    let again = catch_up.snapshot_repeated && envelope.key.is_some();
                    assert!(catch_up.got.insert(id.offset) || again, "{id} came twice");
                }
                let begins = std::mem::take(&mut catch_up.snapshot_begins);
                assert!(begins || id.offset > self.newest, "{id} came after offset {}", self.newest);
            }
        }
        self.newest = id.offset;
        self.cursor = Some(id);
        self.accounted = id.offset;
        match (&envelope.key, envelope.data.get()) {
            (Some(key), "null") => drop(self.state.remove(key)),
            (Some(key), data) => drop(self.state.insert(key.clone(), data.to_owned())),
            (None, data) => self.keyless = Some(data.to_owned()),
        }
    }

    fn caught_up(&mut self, at: Position) {
        let catch_up = self.catching_up.take().expect("caught_up follows a catch_up");
        if !catch_up.is_count_unknown {
            let told = catch_up.got.len() as u64 + catch_up.skipped;
            assert_eq!(told, at.offset - catch_up.base, "received and skipped add up: {catch_up:?} up to {at}");
        }
        self.newest = at.offset;
        self.accounted = at.offset;
        self.cursor = Some(at);
    }
}

fn position(envelope: &Envelope<'_>) -> Position {
    let at: PositionData = serde_json::from_str(envelope.data.get()).unwrap();
    at.position.parse().unwrap()
}

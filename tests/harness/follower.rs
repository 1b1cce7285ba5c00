//! A client of all topics that keeps the state and checks every promise of the contract on the way: strict order, every
//! message once, and each hole told with the number of messages in it.

use std::collections::{BTreeMap, BTreeSet};

use oddswire::message::Position;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A message as a client reads it.
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
struct Told {
    topics: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    mode: String,
    skipped: Option<u64>,
}

#[derive(Deserialize)]
struct At {
    position: String,
}

/// A catch-up under way.
#[derive(Debug, Default)]
struct CatchUp {
    /// What comes after this offset has to be handed out or told as skipped.
    base: u64,
    got: BTreeSet<u64>,
    skipped: u64,
    unknowable: bool,
    /// A snapshot was announced: positions begin anew.
    from_the_start: bool,
    /// It was announced again, since the log had forgotten deletions that belong to it: what it has may come again.
    anew: bool,
}

#[derive(Debug, Default)]
pub struct Follower {
    /// The data of each key, byte for byte.
    pub state: BTreeMap<String, String>,
    /// Where it would resume.
    pub cursor: Option<Position>,
    /// How often each mode was told.
    pub modes: BTreeMap<String, usize>,
    /// Published messages that came.
    pub messages: usize,
    /// The data of the newest keyless message.
    pub keyless: Option<String>,
    accounted: u64,
    newest: u64,
    catching_up: Option<CatchUp>,
    resuming: bool,
}

impl Follower {
    /// Call before each connection; the query parameter with which it resumes.
    pub fn resume(&mut self) -> String {
        self.resuming = self.cursor.is_some();
        self.catching_up = None;
        self.cursor.map_or_else(String::new, |cursor| format!("since={cursor}"))
    }

    /// Whether it is live: nothing is left of a catch-up.
    pub fn is_live(&self) -> bool {
        self.catching_up.is_none()
    }

    pub fn take(&mut self, text: &str) {
        let envelope: Envelope<'_> = serde_json::from_str(text).expect("the server sends JSON");
        match envelope.kind.as_str() {
            "connection_ack" => self.connected(&position(&envelope)),
            "catch_up" => self.told(&serde_json::from_str(envelope.data.get()).unwrap()),
            "caught_up" => self.caught_up(position(&envelope)),
            _ => self.message(&envelope),
        }
    }

    fn connected(&mut self, at: &Position) {
        match self.cursor {
            Some(cursor) if self.resuming => {
                let unknowable = cursor.epoch != at.epoch;
                self.newest = 0;
                self.catching_up = Some(CatchUp { base: cursor.offset, unknowable, ..CatchUp::default() });
            }
            _ => (self.cursor, self.accounted, self.newest) = (Some(*at), at.offset, at.offset),
        }
    }

    fn told(&mut self, told: &Told) {
        let base = self.accounted;
        let catch_up = self.catching_up.get_or_insert_with(|| CatchUp { base, ..CatchUp::default() });
        for (topic, entry) in &told.topics {
            *self.modes.entry(entry.mode.clone()).or_default() += 1;
            match entry.skipped {
                Some(skipped) => catch_up.skipped += skipped,
                None => catch_up.unknowable = true,
            }
            if entry.mode == "snapshot" {
                catch_up.from_the_start = true;
                catch_up.anew |= !catch_up.got.is_empty();
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
            None => assert_eq!(id.offset, self.accounted + 1, "live messages leave no hole and come once"),
            Some(catch_up) => {
                if id.offset > catch_up.base {
                    let again = catch_up.anew && envelope.key.is_some();
                    assert!(catch_up.got.insert(id.offset) || again, "{id} came twice");
                }
                let begins = std::mem::take(&mut catch_up.from_the_start);
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
        let catch_up = self.catching_up.take().expect("a catch-up ends that was told");
        if !catch_up.unknowable {
            let told = catch_up.got.len() as u64 + catch_up.skipped;
            assert_eq!(told, at.offset - catch_up.base, "every hole is told: {catch_up:?} up to {at}");
        }
        self.newest = at.offset;
        self.accounted = at.offset;
        self.cursor = Some(at);
    }
}

fn position(envelope: &Envelope<'_>) -> Position {
    let at: At = serde_json::from_str(envelope.data.get()).unwrap();
    at.position.parse().unwrap()
}

//! The journal's file: its tables, and what one transaction changes in them.
//!
//! Invariant: a transaction leaves the messages that history and state hold, and of each topic what is gone, as of one
//! moment, and whatever came after that moment behind it. What it leaves therefore makes the same log again.

use std::collections::{BTreeMap, BTreeSet};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, TableError, WriteTransaction};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::engine::idempotency::FirstAnswer;
use crate::log::{Change, Entry, Run, TopicFacts};
use crate::manager::{Counts, Published};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Topic, Topics};

/// The version of what stands in these tables. A change of it is another version, and a step in `format`.
pub(super) const FORMAT: u64 = 1;

/// Numbers by name: those of [`meta`].
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The envelope of each message as clients get it, by offset.
const MESSAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("messages");
/// Until when the key of a message is good, in Unix milliseconds, by the message's offset.
const EXPIRIES: TableDefinition<'_, u64, i64> = TableDefinition::new("expiries");
/// The numbers of [`TopicFacts`] in their order, by topic.
const FACTS: TableDefinition<'_, &str, [u64; 6]> = TableDefinition::new("facts");
/// The end of a run and the messages before it, by topic and start.
const RUNS: TableDefinition<'_, (&str, u64), (u64, u64)> = TableDefinition::new("runs");
/// What was answered, by `Idempotency-Key`: fingerprint of the body, accepted, unchanged, offset, and when.
const ANSWERS: TableDefinition<'_, &str, ([u8; 32], u64, u64, u64, i64)> = TableDefinition::new("answers");
/// Empty but for the moment in which it is tried whether there is room.
const ROOM: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("room");

pub(super) mod meta {
    /// The version of the file.
    pub(in super::super) const FORMAT: &str = "format";
    /// The sequence's epoch.
    pub(super) const EPOCH: &str = "epoch";
    /// The offset of the newest message.
    pub(super) const LAST: &str = "last";
    /// How many transactions there were.
    pub(super) const TRANSACTIONS: &str = "transactions";
    /// 1 while what was answered may not be in the file yet: with `sync=interval`, until it is closed.
    pub(super) const LOOSE: &str = "loose";
}

/// What one transaction brings.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The offset of the newest message behind it.
    pub(super) last: u64,
    /// Steps of the sequence.
    pub(super) entries: Vec<Entry>,
    /// Offsets of messages that are kept nowhere any more.
    pub(super) dropped: BTreeSet<u64>,
    /// What is known of each topic.
    pub(super) facts: BTreeMap<Topic, TopicFacts>,
    /// What was answered.
    pub(super) answers: BTreeMap<String, FirstAnswer>,
    /// Keys whose answers are not kept any longer.
    pub(super) forgotten: Vec<String>,
}

/// All that the file has to hold.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) position: Position,
    pub(super) messages: BTreeMap<u64, Change>,
    pub(super) facts: BTreeMap<Topic, TopicFacts>,
    pub(super) answers: BTreeMap<String, FirstAnswer>,
    /// Whether what is answered from here on may not be in the file yet.
    pub(super) loose: bool,
    /// So many bytes are tried beside.
    pub(super) room: usize,
}

/// All that the file holds.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) position: Position,
    pub(super) messages: Vec<Change>,
    pub(super) facts: BTreeMap<Topic, TopicFacts>,
    pub(super) answers: BTreeMap<String, FirstAnswer>,
    /// The sequence goes on, but for what a crash took that was answered already.
    pub(super) loose: bool,
    pub(super) transactions: u64,
    /// Messages of topics that are not configured.
    pub(super) foreign: BTreeMap<String, usize>,
    /// Whether it holds anything of such topics, if only that their messages are gone.
    pub(super) unknown: bool,
}

/// Why what is in the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It is a file of the store's, with something else in it.
    #[error("it is not one of oddswire's")]
    Foreign,
    /// A later version wrote it.
    #[error("it has format {version}, and this version of oddswire knows formats up to {present}")]
    Newer {
        /// The file's.
        version: u64,
        /// The one that this version writes.
        present: u64,
    },
    /// It is damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Damaged(error.into().to_string())
    }
}

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WriteError(pub(super) String);

impl<E: Into<redb::Error>> From<E> for WriteError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

/// A message's envelope.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    topic: String,
    id: String,
    key: Option<String>,
    timestamp: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Envelope<'_> {
    fn topic_of(text: &[u8]) -> Option<String> {
        Some(serde_json::from_slice::<Envelope<'_>>(text).ok()?.topic)
    }

    /// The message that it is of; in another epoch where the sequence got one since. `None` where it is not what the
    /// log writes.
    fn message(&self, topic: &Topic, text: &[u8], position: Position) -> Option<std::sync::Arc<Message>> {
        let written: Position = self.id.parse().ok()?;
        let payload = Payload {
            key: self.key.as_deref().map(str::parse).transpose().ok()?,
            kind: (self.kind != topic.as_str()).then(|| self.kind.clone()),
            data: self.data.to_owned(),
            expires_at: None,
        };
        let timestamp: Timestamp = OffsetDateTime::parse(&self.timestamp, &Rfc3339).ok()?.into();
        let draft = Draft { topic: topic.clone(), payload };
        let message = Message::new(&draft, written, timestamp);
        let same = message.frames().text() == text && written.offset == position.offset;
        let message = if written == position { message } else { Message::new(&draft, position, timestamp) };
        same.then_some(message)
    }
}

impl Kept {
    /// Reads everything from a file of the present version; `None` where it is new.
    pub(super) fn read(database: &Database, topics: &Topics) -> Result<Option<Self>, ReadError> {
        let read = database.begin_read()?;
        if read.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let meta = read.open_table(META)?;
        let number = |name| Ok::<_, ReadError>(meta.get(name)?.map(|number| number.value()));
        let missing = |name: &str| ReadError::Damaged(format!("it has no '{name}'"));
        let required = |name| number(name)?.ok_or_else(|| missing(name));
        let mut kept = Self {
            position: Position { epoch: required(meta::EPOCH)?, offset: required(meta::LAST)? },
            messages: Vec::new(),
            facts: BTreeMap::new(),
            answers: BTreeMap::new(),
            loose: required(meta::LOOSE)? != 0,
            transactions: required(meta::TRANSACTIONS)?,
            foreign: BTreeMap::new(),
            unknown: false,
        };
        let expiries = read.open_table(EXPIRIES)?;
        for row in read.open_table(MESSAGES)?.iter()? {
            let (offset, text) = row?;
            let expires_at = expiries.get(offset.value())?.map(|at| Timestamp::from_millis(at.value()));
            kept.take_message(offset.value(), text.value(), expires_at, topics)?;
        }
        for row in read.open_table(FACTS)?.iter()? {
            let (topic, facts) = row?;
            match topics.get(topic.value()) {
                Some(topic) => drop(kept.facts.insert(topic.clone(), facts_of(facts.value()))),
                None => kept.unknown = true,
            }
        }
        for row in read.open_table(RUNS)?.iter()? {
            let (key, run) = row?;
            let ((topic, start), (end, before)) = (key.value(), run.value());
            if let Some(facts) = topics.get(topic).and_then(|topic| kept.facts.get_mut(topic)) {
                facts.runs.push(Run { start, end, before });
            }
        }
        for row in read.open_table(ANSWERS)?.iter()? {
            let (key, answer) = row?;
            kept.answers.insert(key.value().to_owned(), answer_of(answer.value(), kept.position.epoch));
        }
        Ok(Some(kept))
    }

    fn take_message(
        &mut self,
        offset: u64,
        text: &[u8],
        expires_at: Option<Timestamp>,
        topics: &Topics,
    ) -> Result<(), ReadError> {
        let damaged = || ReadError::Damaged(format!("message {offset} is not as it was written"));
        let envelope: Envelope<'_> = serde_json::from_slice(text).map_err(|_| damaged())?;
        let Some(topic) = topics.get(&envelope.topic) else {
            *self.foreign.entry(envelope.topic).or_default() += 1;
            self.unknown = true;
            return Ok(());
        };
        let position = Position { epoch: self.position.epoch, offset };
        let message = envelope.message(topic, text, position).filter(|_| offset <= self.position.offset);
        self.messages.push(Change { message: message.ok_or_else(damaged)?, expires_at });
        Ok(())
    }

    /// Gives the sequence another epoch: what is known of the old one is not all that clients know of it.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        self.position.epoch = epoch;
        for Change { message, .. } in &mut self.messages {
            let text = message.frames().text();
            let envelope: Option<Envelope<'_>> = serde_json::from_slice(text).ok();
            let position = Position { epoch, offset: message.offset() };
            if let Some(moved) = envelope.and_then(|envelope| envelope.message(message.topic(), text, position)) {
                *message = moved;
            }
        }
        for answer in self.answers.values_mut() {
            answer.published.position.epoch = epoch;
        }
    }
}

fn numbers_of(facts: &TopicFacts) -> [u64; 6] {
    let TopicFacts { evicted, lost_keyless, forgotten, counted_from, counted_before, counted_to, .. } = *facts;
    [evicted, lost_keyless, forgotten, counted_from, counted_before, counted_to]
}

fn facts_of([evicted, lost_keyless, forgotten, counted_from, counted_before, counted_to]: [u64; 6]) -> TopicFacts {
    TopicFacts { evicted, lost_keyless, forgotten, counted_from, counted_before, counted_to, runs: Vec::new() }
}

fn row_of(answer: &FirstAnswer) -> ([u8; 32], u64, u64, u64, i64) {
    let FirstAnswer { fingerprint, published: Published { counts, position }, at } = *answer;
    (fingerprint, counts.accepted as u64, counts.unchanged as u64, position.offset, at.as_millis())
}

fn answer_of(row: ([u8; 32], u64, u64, u64, i64), epoch: u64) -> FirstAnswer {
    let (fingerprint, accepted, unchanged, offset, at) = row;
    let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
    let counts = Counts { accepted: count(accepted), unchanged: count(unchanged) };
    let published = Published { counts, position: Position { epoch, offset } };
    FirstAnswer { fingerprint, published, at: Timestamp::from_millis(at) }
}

/// The number of transactions that the file has.
pub(super) fn transactions(database: &Database) -> Result<u64, WriteError> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(0),
        meta => meta?,
    };
    let number = meta.get(meta::TRANSACTIONS)?.map_or(0, |number| number.value());
    Ok(number)
}

/// Writes down what is new, as the transaction with this number; it is on the disk when this returns.
pub(super) fn write(database: &Database, changes: &Changes, number: u64) -> Result<(), WriteError> {
    let transaction = database.begin_write()?;
    write_sequence(&transaction, changes)?;
    write_facts(&transaction, &changes.facts)?;
    let mut answers = transaction.open_table(ANSWERS)?;
    for key in &changes.forgotten {
        answers.remove(key.as_str())?;
    }
    for (key, answer) in &changes.answers {
        answers.insert(key.as_str(), row_of(answer))?;
    }
    drop(answers);
    let mut meta = transaction.open_table(META)?;
    meta.insert(meta::LAST, changes.last)?;
    meta.insert(meta::TRANSACTIONS, number)?;
    drop(meta);
    transaction.commit()?;
    Ok(())
}

fn write_sequence(transaction: &WriteTransaction, changes: &Changes) -> Result<(), WriteError> {
    let mut messages = transaction.open_table(MESSAGES)?;
    let mut expiries = transaction.open_table(EXPIRIES)?;
    for entry in &changes.entries {
        match entry {
            Entry::Message(change) if !changes.dropped.contains(&change.message.offset()) => {
                messages.insert(change.message.offset(), change.message.frames().text())?;
                set_expiry(&mut expiries, change.message.offset(), change.expires_at)?;
            }
            Entry::Renewed { offset, expires_at, .. } => set_expiry(&mut expiries, *offset, *expires_at)?,
            Entry::Message(_) | Entry::Passed(_) => {}
        }
    }
    for offset in &changes.dropped {
        messages.remove(offset)?;
        expiries.remove(offset)?;
    }
    Ok(())
}

fn set_expiry(expiries: &mut Table<'_, u64, i64>, offset: u64, at: Option<Timestamp>) -> Result<(), WriteError> {
    match at {
        Some(at) => expiries.insert(offset, at.as_millis())?,
        None => expiries.remove(offset)?,
    };
    Ok(())
}

fn write_facts(transaction: &WriteTransaction, facts: &BTreeMap<Topic, TopicFacts>) -> Result<(), WriteError> {
    let mut table = transaction.open_table(FACTS)?;
    let mut runs = transaction.open_table(RUNS)?;
    for (topic, facts) in facts {
        let topic = topic.as_str();
        table.insert(topic, numbers_of(facts))?;
        runs.retain_in((topic, 0)..=(topic, facts.counted_from), |_, _| false)?;
        for run in &facts.runs {
            runs.insert((topic, run.start), (run.end, run.before))?;
        }
    }
    Ok(())
}

/// Makes the file hold exactly this, as the transaction with this number: writes what it lacks, and removes what should not
/// be there. Messages of topics that are not configured stay.
pub(super) fn mend(database: &Database, image: &Image, number: u64) -> Result<(), WriteError> {
    let transaction = database.begin_write()?;
    mend_messages(&transaction, image)?;
    mend_facts(&transaction, image)?;
    mend_answers(&transaction, image)?;
    let numbers = [
        (meta::FORMAT, FORMAT),
        (meta::EPOCH, image.position.epoch),
        (meta::LAST, image.position.offset),
        (meta::TRANSACTIONS, number),
        (meta::LOOSE, u64::from(image.loose)),
    ];
    let mut meta = transaction.open_table(META)?;
    for (name, number) in numbers {
        meta.insert(name, number)?;
    }
    drop(meta);
    transaction.open_table(ROOM)?.retain(|_, _| false)?;
    transaction.commit()?;
    Ok(())
}

/// Copies what the image does not know: messages of topics that are not configured, and what is known of those topics.
pub(super) fn copy_unknown(from: &Database, to: &Database, image: &Image) -> Result<(), WriteError> {
    let known = |topic: &str| image.facts.keys().any(|known| known.as_str() == topic);
    let read = from.begin_read()?;
    if read.list_tables()?.next().is_none() {
        return Ok(());
    }
    let transaction = to.begin_write()?;
    let expiries = read.open_table(EXPIRIES)?;
    for row in read.open_table(MESSAGES)?.iter()? {
        let (offset, text) = row?;
        if Envelope::topic_of(text.value()).is_some_and(|topic| !known(&topic)) {
            transaction.open_table(MESSAGES)?.insert(offset.value(), text.value())?;
            let at = expiries.get(offset.value())?.map(|at| Timestamp::from_millis(at.value()));
            set_expiry(&mut transaction.open_table(EXPIRIES)?, offset.value(), at)?;
        }
    }
    for row in read.open_table(FACTS)?.iter()? {
        let (topic, facts) = row?;
        if !known(topic.value()) {
            transaction.open_table(FACTS)?.insert(topic.value(), facts.value())?;
        }
    }
    for row in read.open_table(RUNS)?.iter()? {
        let (run, of) = row?;
        if !known(run.value().0) {
            transaction.open_table(RUNS)?.insert(run.value(), of.value())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Writes so many bytes and takes them back.
pub(super) fn try_room(database: &Database, bytes: usize) -> Result<(), WriteError> {
    const PART: usize = 64 << 10;
    if bytes == 0 {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    let mut room = transaction.open_table(ROOM)?;
    for part in 0..bytes.div_ceil(PART) {
        room.insert(part as u64, vec![0; PART].as_slice())?;
    }
    drop(room);
    transaction.commit()?;
    let transaction = database.begin_write()?;
    transaction.open_table(ROOM)?.retain(|_, _| false)?;
    transaction.commit()?;
    Ok(())
}

fn mend_messages(transaction: &WriteTransaction, image: &Image) -> Result<(), WriteError> {
    let mut messages = transaction.open_table(MESSAGES)?;
    let mut expiries = transaction.open_table(EXPIRIES)?;
    let mut there = BTreeSet::new();
    let mut gone = Vec::new();
    for row in messages.iter()? {
        let (offset, text) = row?;
        let offset = offset.value();
        let ours =
            || Envelope::topic_of(text.value()).is_none_or(|topic| image.facts.keys().any(|t| t.as_str() == topic));
        if image.messages.contains_key(&offset) {
            there.insert(offset);
        } else if offset > image.position.offset || ours() {
            gone.push(offset);
        }
    }
    for offset in gone {
        messages.remove(offset)?;
        expiries.remove(offset)?;
    }
    for (offset, change) in &image.messages {
        if !there.contains(offset) {
            messages.insert(offset, change.message.frames().text())?;
        }
        let written = expiries.get(offset)?.map(|at| Timestamp::from_millis(at.value()));
        if written != change.expires_at {
            set_expiry(&mut expiries, *offset, change.expires_at)?;
        }
    }
    Ok(())
}

fn mend_facts(transaction: &WriteTransaction, image: &Image) -> Result<(), WriteError> {
    let mut runs = transaction.open_table(RUNS)?;
    for (topic, facts) in &image.facts {
        let topic = topic.as_str();
        let right: BTreeMap<u64, (u64, u64)> =
            facts.runs.iter().map(|run| (run.start, (run.end, run.before))).collect();
        runs.retain_in((topic, 0)..=(topic, u64::MAX), |(_, start), _| right.contains_key(&start))?;
    }
    drop(runs);
    write_facts(transaction, &image.facts)
}

fn mend_answers(transaction: &WriteTransaction, image: &Image) -> Result<(), WriteError> {
    let mut answers = transaction.open_table(ANSWERS)?;
    answers.retain(|key, row| image.answers.get(key).is_some_and(|answer| row_of(answer) == row))?;
    for (key, answer) in &image.answers {
        if answers.get(key.as_str())?.is_none() {
            answers.insert(key.as_str(), row_of(answer))?;
        }
    }
    Ok(())
}

/// Says that all that was answered is in the file.
pub(super) fn settle(database: &Database) -> Result<(), WriteError> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(meta::LOOSE, 0)?;
    transaction.commit()?;
    Ok(())
}

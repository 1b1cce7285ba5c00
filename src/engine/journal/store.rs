//! The tables of the journal's file, and the changes of one transaction.
//!
//! Invariant: each transaction leaves the file with the history, the state and the facts of each topic at one moment.
//! The file also has all messages after that moment. So reading the file restores the same log.

use std::collections::{BTreeMap, BTreeSet};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, TableError, WriteTransaction};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::engine::idempotency::FirstAnswer;
use crate::log::{Change, LogEntry, OffsetRun, TopicFacts};
use crate::manager::{Counts, Published};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Topic, Topics};

/// The version of these tables. If the meaning of a table changes, add a version here and a step in `format`.
pub(super) const FORMAT: u64 = 1;

/// Single numbers by name. The module [`meta`] lists the names.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The envelope of each message, exactly as clients get it, by offset.
const MESSAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("messages");
/// The expiry of each message's key in Unix milliseconds, by the offset of the message.
const EXPIRIES: TableDefinition<'_, u64, i64> = TableDefinition::new("expiries");
/// The numeric fields of [`TopicFacts`] in their order, by topic.
const FACTS: TableDefinition<'_, &str, [u64; 6]> = TableDefinition::new("facts");
/// The runs of offsets ([`OffsetRun`]): the end of each run and the topic's number of messages before it, by topic and
/// start.
const RUNS: TableDefinition<'_, (&str, u64), (u64, u64)> = TableDefinition::new("runs");
/// The answers by `Idempotency-Key`: the fingerprint of the body, the numbers of accepted and unchanged messages, the
/// offset, and the time in Unix milliseconds.
const ANSWERS: TableDefinition<'_, &str, ([u8; 32], u64, u64, u64, i64)> = TableDefinition::new("answers");
/// Empty, except while [`try_room`] tests whether the disk has room.
const ROOM: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("room");

pub(super) mod meta {
    /// The version of the file.
    pub(in super::super) const FORMAT: &str = "format";
    /// The epoch of the sequence.
    pub(super) const EPOCH: &str = "epoch";
    /// The offset of the newest message.
    pub(super) const LAST: &str = "last";
    /// The number of transactions that were written so far.
    pub(super) const TRANSACTIONS: &str = "transactions";
    /// 1 while the file may lack confirmed messages, otherwise 0. With `sync=interval` it is 1 until the file is
    /// closed.
    pub(super) const LOOSE: &str = "loose";
}

/// The changes of one transaction.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The offset of the newest message after the transaction.
    pub(super) last: u64,
    /// The new entries of the sequence, in order.
    pub(super) entries: Vec<LogEntry>,
    /// Offsets of messages that are neither in the history nor in the state any more.
    pub(super) dropped: BTreeSet<u64>,
    /// The facts of each topic.
    pub(super) facts: BTreeMap<Topic, TopicFacts>,
    /// New answers by `Idempotency-Key`.
    pub(super) answers: BTreeMap<String, FirstAnswer>,
    /// Each `Idempotency-Key` whose answer is no longer kept.
    pub(super) forgotten: Vec<String>,
}

/// The contents that the file must have.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) position: Position,
    pub(super) messages: BTreeMap<u64, Change>,
    pub(super) facts: BTreeMap<Topic, TopicFacts>,
    pub(super) answers: BTreeMap<String, FirstAnswer>,
    /// Whether messages may be confirmed before they are in the file.
    pub(super) loose: bool,
    /// The number of bytes for which the disk must still have room after the file has these contents.
    pub(super) room: usize,
}

/// The contents of the file.
#[derive(Debug)]
pub(super) struct FileContents {
    pub(super) position: Position,
    pub(super) messages: Vec<Change>,
    pub(super) facts: BTreeMap<Topic, TopicFacts>,
    pub(super) answers: BTreeMap<String, FirstAnswer>,
    /// Whether a crash may have lost confirmed messages from the end of the sequence.
    pub(super) loose: bool,
    pub(super) transactions: u64,
    /// The number of messages of each topic that is not configured.
    pub(super) foreign: BTreeMap<String, usize>,
    /// Whether the file has messages or facts of topics that are not configured.
    pub(super) unknown: bool,
}

/// Why the contents of the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// A redb file that another program wrote.
    #[error("it was not written by oddswire")]
    Foreign,
    /// The file has a newer format.
    #[error("it has format {version}, but this version of oddswire reads formats up to {present}")]
    Newer {
        /// The format of the file.
        version: u64,
        /// The format that this version writes.
        present: u64,
    },
    /// The file is damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Damaged(error.into().to_string())
    }
}

/// Why a transaction failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WriteError(pub(super) String);

impl<E: Into<redb::Error>> From<E> for WriteError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

/// The envelope of a stored message.
#[derive(Deserialize)]
struct EnvelopeRow<'a> {
    #[serde(rename = "type")]
    kind: String,
    topic: String,
    id: String,
    key: Option<String>,
    timestamp: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl EnvelopeRow<'_> {
    fn topic_of(text: &[u8]) -> Option<String> {
        Some(serde_json::from_slice::<EnvelopeRow<'_>>(text).ok()?.topic)
    }

    /// Converts the envelope to a message at this position, whose epoch may be newer than that of the envelope. `None`
    /// if the offset or the text is not what oddswire would have written.
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

impl FileContents {
    /// Reads the whole file, which must have the present format. `None` if the file is new.
    pub(super) fn read(database: &Database, topics: &Topics) -> Result<Option<Self>, ReadError> {
        let read = database.begin_read()?;
        if read.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let meta = read.open_table(META)?;
        let number = |name| Ok::<_, ReadError>(meta.get(name)?.map(|number| number.value()));
        let missing = |name: &str| ReadError::Damaged(format!("the number '{name}' is missing"));
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
                facts.runs.push(OffsetRun { start, end, before });
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
        let damaged = || ReadError::Damaged(format!("message {offset} is not in the form that oddswire writes"));
        let envelope: EnvelopeRow<'_> = serde_json::from_slice(text).map_err(|_| damaged())?;
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

    /// Moves the sequence to a new epoch, because clients may have received messages of the old epoch that the file
    /// lacks.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        self.position.epoch = epoch;
        for Change { message, .. } in &mut self.messages {
            let text = message.frames().text();
            let envelope: Option<EnvelopeRow<'_>> = serde_json::from_slice(text).ok();
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

/// The number of transactions in the file.
pub(super) fn transactions(database: &Database) -> Result<u64, WriteError> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(0),
        meta => meta?,
    };
    let number = meta.get(meta::TRANSACTIONS)?.map_or(0, |number| number.value());
    Ok(number)
}

/// Writes the changes as the transaction with this number. The changes are on the disk when this returns.
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
            LogEntry::Message(change) if !changes.dropped.contains(&change.message.offset()) => {
                messages.insert(change.message.offset(), change.message.frames().text())?;
                set_expiry(&mut expiries, change.message.offset(), change.expires_at)?;
            }
            LogEntry::Renewed { offset, expires_at, .. } => set_expiry(&mut expiries, *offset, *expires_at)?,
            LogEntry::Message(_) | LogEntry::Passed(_) => {}
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

/// Makes the file hold exactly this image, in the transaction with this number. Writes rows that the file lacks, and
/// deletes rows that the image lacks. Messages of topics that are not configured stay.
pub(super) fn repair(database: &Database, image: &Image, number: u64) -> Result<(), WriteError> {
    let transaction = database.begin_write()?;
    repair_messages(&transaction, image)?;
    repair_facts(&transaction, image)?;
    repair_answers(&transaction, image)?;
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

/// Copies the messages and facts of topics that are not configured, because the image lacks them.
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
        if EnvelopeRow::topic_of(text.value()).is_some_and(|topic| !known(&topic)) {
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

/// Tests whether the disk has room for this many bytes, by writing and deleting them.
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

fn repair_messages(transaction: &WriteTransaction, image: &Image) -> Result<(), WriteError> {
    let mut messages = transaction.open_table(MESSAGES)?;
    let mut expiries = transaction.open_table(EXPIRIES)?;
    let mut there = BTreeSet::new();
    let mut gone = Vec::new();
    for row in messages.iter()? {
        let (offset, text) = row?;
        let offset = offset.value();
        let ours =
            || EnvelopeRow::topic_of(text.value()).is_none_or(|topic| image.facts.keys().any(|t| t.as_str() == topic));
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

fn repair_facts(transaction: &WriteTransaction, image: &Image) -> Result<(), WriteError> {
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

fn repair_answers(transaction: &WriteTransaction, image: &Image) -> Result<(), WriteError> {
    let mut answers = transaction.open_table(ANSWERS)?;
    answers.retain(|key, row| image.answers.get(key).is_some_and(|answer| row_of(answer) == row))?;
    for (key, answer) in &image.answers {
        if answers.get(key.as_str())?.is_none() {
            answers.insert(key.as_str(), row_of(answer))?;
        }
    }
    Ok(())
}

/// Records that the file holds all confirmed messages.
pub(super) fn settle(database: &Database) -> Result<(), WriteError> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(meta::LOOSE, 0)?;
    transaction.commit()?;
    Ok(())
}

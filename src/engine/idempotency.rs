//! Stores the answers to requests with an `Idempotency-Key`. A retry gets the first answer, and delivers nothing twice.
//!
//! An answer is kept for five minutes. At most [`MAX_KEYS`] answers are kept.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use ring::digest::{self, SHA256, SHA256_OUTPUT_LEN};

use super::PublishError;
use crate::manager::Published;
use crate::message::Timestamp;

/// The maximum length of an `Idempotency-Key` in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// How long each answer is kept.
pub(super) const KEPT_FOR: Duration = Duration::from_mins(5);
/// The maximum number of stored answers. Above it, a new answer displaces the oldest.
const MAX_KEYS: usize = 100_000;

/// The `Idempotency-Key` of a request, and a fingerprint of the request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    key: String,
    fingerprint: [u8; SHA256_OUTPUT_LEN],
}

impl IdempotencyKey {
    /// Creates a key whose fingerprint is the SHA-256 hash of the request's body.
    #[must_use]
    pub fn new(key: String, body: &[u8]) -> Self {
        let mut fingerprint = [0; SHA256_OUTPUT_LEN];
        fingerprint.copy_from_slice(digest::digest(&SHA256, body).as_ref());
        Self { key, fingerprint }
    }

    /// The publisher's name, a space, and the `Idempotency-Key` that the publisher sent.
    pub(super) fn name(&self) -> &str {
        &self.key
    }

    /// The fingerprint in hexadecimal digits.
    pub(super) fn fingerprint(&self) -> String {
        self.fingerprint.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Returns the key, and the answer to store under that key.
    pub(super) fn with(&self, published: Published, at: Timestamp) -> (String, FirstAnswer) {
        (self.key.clone(), FirstAnswer { fingerprint: self.fingerprint, published, at })
    }
}

/// The first answer to a request, with the fingerprint of the request's body and the time of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FirstAnswer {
    pub(super) fingerprint: [u8; SHA256_OUTPUT_LEN],
    pub(super) published: Published,
    pub(super) at: Timestamp,
}

/// The answers of the last five minutes.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_key: HashMap<String, FirstAnswer>,
    oldest_first: VecDeque<String>,
}

impl Answers {
    /// The stored answer, if this request is a retry. Fails if the key was used with another body.
    pub(super) fn find(&self, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Published>, PublishError> {
        match self.by_key.get(&key.key) {
            Some(answer) if answer.at.plus(KEPT_FOR) < now => Ok(None),
            Some(answer) if answer.fingerprint == key.fingerprint => Ok(Some(answer.published)),
            Some(_) => Err(PublishError::KeyReused),
            None => Ok(None),
        }
    }

    /// Stores the answer to a request. Drops old answers, and returns their keys.
    pub(super) fn keep(&mut self, key: IdempotencyKey, published: Published, now: Timestamp) -> Vec<String> {
        let dropped = self.drop_old(now);
        self.oldest_first.push_back(key.key.clone());
        self.by_key.insert(key.key, FirstAnswer { fingerprint: key.fingerprint, published, at: now });
        dropped
    }

    /// Restores answers from storage, except those that have become too old.
    pub(super) fn restore(kept: BTreeMap<String, FirstAnswer>, now: Timestamp) -> Self {
        let good = kept.into_iter().filter(|(_, answer)| answer.at.plus(KEPT_FOR) >= now);
        let by_key: HashMap<String, FirstAnswer> = good.collect();
        let mut oldest_first: Vec<String> = by_key.keys().cloned().collect();
        oldest_first.sort_by_key(|key| by_key[key].at);
        Self { by_key, oldest_first: oldest_first.into() }
    }

    /// All answers by key.
    pub(super) fn all(&self) -> BTreeMap<String, FirstAnswer> {
        self.by_key.iter().map(|(key, answer)| (key.clone(), *answer)).collect()
    }

    /// Whether an answer is kept under this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    fn drop_old(&mut self, now: Timestamp) -> Vec<String> {
        let mut dropped = Vec::new();
        while let Some(oldest) = self.oldest_first.front() {
            let outdated = self.by_key.get(oldest).is_none_or(|answer| answer.at.plus(KEPT_FOR) < now);
            if !outdated && self.oldest_first.len() < MAX_KEYS {
                break;
            }
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.by_key.remove(&oldest);
                dropped.push(oldest);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Counts;
    use crate::message::Position;

    fn published(offset: u64) -> Published {
        Published { counts: Counts { accepted: 1, unchanged: 0 }, position: Position { epoch: 1, offset } }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn retry_gets_the_first_answer_for_five_minutes() {
        let mut answers = Answers::default();
        let key = IdempotencyKey::new("a".to_owned(), b"body");
        answers.keep(key.clone(), published(1), at(0));
        assert_eq!(answers.find(&key, at(300)), Ok(Some(published(1))));
        assert_eq!(answers.find(&key, at(301)), Ok(None));
        answers.keep(key.clone(), published(2), at(301));
        assert_eq!(answers.find(&key, at(302)), Ok(Some(published(2))));
    }

    #[test]
    fn another_body_under_the_same_key_is_refused() {
        let mut answers = Answers::default();
        answers.keep(IdempotencyKey::new("a".to_owned(), b"body"), published(1), at(0));
        let other = IdempotencyKey::new("a".to_owned(), b"other");
        assert_eq!(answers.find(&other, at(1)), Err(PublishError::KeyReused));
    }

    #[test]
    fn new_answer_displaces_the_oldest_at_the_limit() {
        let mut answers = Answers::default();
        let key = |number: usize| IdempotencyKey::new(number.to_string(), b"body");
        for number in 0..=MAX_KEYS {
            answers.keep(key(number), published(1), at(0));
        }
        assert_eq!(answers.find(&key(0), at(0)), Ok(None));
        assert_eq!(answers.find(&key(1), at(0)), Ok(Some(published(1))));
        assert_eq!(answers.by_key.len(), MAX_KEYS);
    }
}

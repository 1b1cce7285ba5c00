//! Topics, keys and subscriptions. The server parses text when the text arrives, so values of these types are valid.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::shortened::shortened;

/// The maximum length of a topic name in bytes.
pub const MAX_TOPIC_BYTES: usize = 64;
/// The maximum length of a key in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// Why a text is not a valid topic, key or subscription. The error shows the text and the rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// The topic is empty, too long, or has a character outside `[a-z0-9_]`.
    #[error("invalid topic '{}': expected 1 to {MAX_TOPIC_BYTES} bytes of a-z, 0-9 and _", shortened(.0))]
    Topic(String),
    /// The key is empty, too long, has an empty segment or a control character.
    #[error(
        "invalid key '{}': {rule}; expected 1 to {MAX_KEY_BYTES} bytes: segments joined by '/', \
         without empty segments or control characters",
        shortened(.key)
    )]
    Key {
        /// The refused text.
        key: String,
        /// The rule that the text breaks.
        rule: &'static str,
    },
}

/// The name of a topic. Clones are cheap because they share one allocation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let valid = (1..=MAX_TOPIC_BYTES).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if valid { Ok(Self(text.into())) } else { Err(ParseError::Topic(text.to_owned())) }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The path of a message inside its topic, such as `8301/1x2/betpawa`. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All leading paths of this key, from the shortest to the key itself: `8301`, `8301/1x2`, `8301/1x2/betpawa`.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        let ends = self.0.match_indices('/').map(|(at, _)| at).chain([self.0.len()]);
        ends.map(|end| &self.0[..end])
    }

    /// Whether this key equals `other` or begins with all segments of `other`.
    #[must_use]
    pub fn is_within(&self, other: &Key) -> bool {
        self.0.strip_prefix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Key {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |rule| Err(ParseError::Key { key: text.to_owned(), rule });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_KEY_BYTES {
            return refuse("it is too long");
        }
        if text.chars().any(char::is_control) {
            return refuse("it has a control character");
        }
        if text.split('/').any(str::is_empty) {
            return refuse("it has an empty segment");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a connection listens to: a topic, or the messages of a topic whose keys begin with certain segments.
///
/// ```
/// use oddswire::topic::Subscription;
///
/// let narrowed: Subscription = "odds_updates/8301".parse()?;
/// assert_eq!(narrowed.topic().as_str(), "odds_updates");
/// assert_eq!(narrowed.key().unwrap().as_str(), "8301");
/// # Ok::<(), oddswire::topic::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscription {
    topic: Topic,
    key: Option<Key>,
}

impl Subscription {
    /// A subscription to `topic`. With a `key`, it covers only that key and the keys with further segments.
    #[must_use]
    pub fn new(topic: Topic, key: Option<Key>) -> Self {
        Self { topic, key }
    }

    /// The topic of this subscription.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The leading segments of the keys that this subscription covers. `None` if it covers the whole topic.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Whether both subscriptions can cover the same message.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let keys = match (&self.key, &other.key) {
            (Some(one), Some(another)) => one.is_within(another) || another.is_within(one),
            _ => true,
        };
        keys && self.topic == other.topic
    }

    /// Whether the subscription covers a message of its topic with this key.
    #[must_use]
    pub fn covers(&self, key: Option<&Key>) -> bool {
        match (&self.key, key) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(narrowed), Some(key)) => key.is_within(narrowed),
        }
    }
}

impl From<Topic> for Subscription {
    fn from(topic: Topic) -> Self {
        Self::new(topic, None)
    }
}

impl FromStr for Subscription {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once('/') {
            None => Ok(Self::new(text.parse()?, None)),
            Some((topic, key)) => Ok(Self::new(topic.parse()?, Some(key.parse()?))),
        }
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            None => write!(f, "{}", self.topic),
            Some(key) => write!(f, "{}/{key}", self.topic),
        }
    }
}

impl serde::Serialize for Subscription {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The configured topics, in the order of the setting `topics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics(Arc<[Topic]>);

impl Topics {
    /// The topics in `names`, each of them once.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = Topic>) -> Self {
        let mut topics: Vec<Topic> = Vec::new();
        for name in names {
            if !topics.contains(&name) {
                topics.push(name);
            }
        }
        Self(topics.into())
    }

    /// The configured topic with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Topic> {
        self.0.iter().find(|topic| topic.as_str() == name)
    }

    /// All configured topics.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter()
    }

    /// Splits subscriptions into those to configured topics and those to unknown topics.
    #[must_use]
    pub fn partition(&self, asked: impl IntoIterator<Item = Subscription>) -> (Vec<Subscription>, Vec<Subscription>) {
        asked.into_iter().partition(|subscription| self.get(subscription.topic().as_str()).is_some())
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, topic) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{topic}")?;
        }
        Ok(())
    }
}

impl FromStr for Topics {
    type Err = ParseError;

    /// Parses a comma-separated list. It ignores spaces around the names.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let names: Result<Vec<Topic>, _> = text.split(',').map(|name| name.trim().parse()).collect();
        names.map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topic_is_1_to_64_bytes_of_a_to_z_digits_and_underscore() {
        assert!("a".repeat(64).parse::<Topic>().is_ok());
        assert!("odds_updates_2".parse::<Topic>().is_ok());
        for bad in ["", "Odds", "odds-updates", "ödds", "a b", &"a".repeat(65)] {
            let error = bad.parse::<Topic>().unwrap_err().to_string();
            assert!(error.contains("1 to 64 bytes of a-z, 0-9 and _"), "{error}");
        }
    }

    #[test]
    fn key_is_1_to_256_bytes_without_empty_segments_or_controls() {
        for good in ["8301", "8301/1x2/betpawa", "NCAA Football", &"k".repeat(256), "ü/é"] {
            assert!(good.parse::<Key>().is_ok(), "{good}");
        }
        let too_long = "k".repeat(257);
        let bad = [
            ("", "it is empty"),
            ("/a", "empty segment"),
            ("a/", "empty segment"),
            ("a//b", "empty segment"),
            ("a\nb", "control character"),
            ("a\u{7f}", "control character"),
            (&too_long, "too long"),
        ];
        for (text, rule) in bad {
            let error = text.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
        }
    }

    #[test]
    fn error_shows_only_the_beginning_of_a_long_text() {
        let error = "k".repeat(10_000).parse::<Key>().unwrap_err().to_string();
        assert!(error.len() < 400, "{} bytes", error.len());
    }

    #[test]
    fn prefixes_go_from_the_first_segment_to_the_whole_key() {
        let key: Key = "8301/1x2/betpawa".parse().unwrap();
        assert_eq!(key.prefixes().collect::<Vec<_>>(), ["8301", "8301/1x2", "8301/1x2/betpawa"]);
    }

    #[test]
    fn narrowed_subscription_covers_only_whole_segments() {
        let narrowed: Subscription = "odds/83".parse().unwrap();
        let key = |text: &str| text.parse::<Key>().unwrap();
        assert!(narrowed.covers(Some(&key("83"))));
        assert!(narrowed.covers(Some(&key("83/1x2"))));
        assert!(!narrowed.covers(Some(&key("8301"))));
        assert!(!narrowed.covers(None));
    }

    proptest! {
        #[test]
        fn subscription_parses_back_from_its_text(text in "[a-z0-9_]{1,8}(/[^/\\p{Cc}]{1,5}){0,4}") {
            let subscription: Subscription = text.parse().unwrap();
            prop_assert_eq!(subscription.to_string(), text);
        }

        #[test]
        fn key_is_within_exactly_its_prefixes(a in "[ab]{1,2}(/[ab]{1,2}){0,3}", b in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
            let (a, b): (Key, Key) = (a.parse().unwrap(), b.parse().unwrap());
            prop_assert_eq!(a.is_within(&b), a.prefixes().any(|prefix| prefix == b.as_str()));
        }
    }
}

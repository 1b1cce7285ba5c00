//! Drops the second copy of messages that arrive over two connections, of which one replaces the other.
//!
//! The position identifies a message. A broadcast has no position. Its text identifies it, because the text includes a
//! timestamp and is the same on every node.

use std::collections::{HashSet, VecDeque};

use oddswire::message::Position;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The maximum number of remembered broadcasts. If more arrive while the next connection is being opened, the oldest of
/// them may be shown twice.
const MOST_BROADCASTS: usize = 64;

/// Remembers what the previous connection delivered.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    /// The position that the previous connection reached. The current connection repeats messages up to this position.
    to: Option<Position>,
    /// The subscriptions whose current state the current connection delivers again, each as `topic` or `topic/key`.
    restated: HashSet<String>,
    /// Broadcasts of the previous connection that the current connection may still repeat.
    before: VecDeque<Utf8Bytes>,
    /// Broadcasts that the current connection delivered since the opening of the next connection began.
    delivered: VecDeque<Utf8Bytes>,
}

impl Overlap {
    /// Notes that the next connection is being opened: from now on, both connections may deliver the same broadcasts.
    pub(super) fn begin(&mut self) {
        self.delivered.clear();
    }

    /// Notes that the next connection replaces the current one, which has delivered everything up to `position`.
    pub(super) fn hand_over(&mut self, position: Option<Position>) {
        self.to = position;
        self.restated.clear();
        self.before = std::mem::take(&mut self.delivered);
    }

    /// Notes that the current connection delivers the current state of this subscription again.
    pub(super) fn restate(&mut self, subscription: String) {
        self.restated.insert(subscription);
    }

    /// From now on, treats no message of the current connection as a repeat, because its catch-up is unknown.
    pub(super) fn forget(&mut self) {
        self.to = None;
    }

    /// Whether the previous connection had reached this position in all topics.
    pub(super) fn has_reached(&self, at: Position) -> bool {
        self.restated.is_empty() && self.is_within(at)
    }

    /// Whether the previous connection delivered this message.
    pub(super) fn has_message(&self, at: Position, topic: &str, key: Option<&str>) -> bool {
        self.is_within(at) && !self.restated.iter().any(|subscription| covers(subscription, topic, key))
    }

    /// Whether the previous connection delivered this broadcast. If `is_opening`, remembers the broadcast for the next
    /// connection.
    pub(super) fn has_broadcast(&mut self, text: &Utf8Bytes, is_opening: bool) -> bool {
        if let Some(at) = self.before.iter().position(|before| before == text) {
            // Forget this broadcast: another broadcast with the same text is a new one.
            self.before.remove(at);
            return true;
        }
        if is_opening {
            self.delivered.truncate(MOST_BROADCASTS - 1);
            self.delivered.push_front(text.clone());
        }
        false
    }

    fn is_within(&self, at: Position) -> bool {
        self.to.is_some_and(|to| to.epoch == at.epoch && at.offset <= to.offset)
    }
}

fn covers(subscription: &str, topic: &str, key: Option<&str>) -> bool {
    let Some(rest) = subscription.strip_prefix(topic) else { return false };
    match (rest.strip_prefix('/'), key) {
        (None, _) => rest.is_empty(),
        (Some(_), None) => false,
        (Some(narrowed), Some(key)) => {
            key.strip_prefix(narrowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: &str) -> Position {
        position.parse().unwrap()
    }

    fn handed_over(position: &str) -> Overlap {
        let mut overlap = Overlap::default();
        overlap.hand_over(Some(at(position)));
        overlap
    }

    #[test]
    fn messages_up_to_the_last_position_are_repeated() {
        let overlap = handed_over("7-10");
        for (position, repeated) in [("7-9", true), ("7-10", true), ("7-11", false), ("8-1", false)] {
            assert_eq!(overlap.has_message(at(position), "odds", Some("1")), repeated, "{position}");
            assert_eq!(overlap.has_reached(at(position)), repeated, "{position}");
        }
        assert!(!Overlap::default().has_message(at("7-1"), "odds", None), "there was no last connection");
    }

    #[test]
    fn mixed_catch_up_shows_only_restated_topics_again() {
        let mut overlap = handed_over("7-10");
        overlap.restate("odds/8301/1x2".to_owned());
        overlap.restate("runs".to_owned());
        for (topic, key, repeated) in [
            ("odds", Some("8301/1x2"), false),
            ("odds", Some("8301/1x2/maker"), false),
            ("odds", Some("8301/1x2y"), true),
            ("odds", Some("8301"), true),
            ("odds", None, true),
            ("odds_2", Some("8301/1x2"), true),
            ("runs", None, false),
            ("runs", Some("8301"), false),
            ("run", Some("s"), true),
        ] {
            assert_eq!(overlap.has_message(at("7-10"), topic, key), repeated, "{topic}, {key:?}");
        }
        assert!(!overlap.has_reached(at("7-9")), "one topic has not reached it yet");
        overlap.hand_over(Some(at("7-12")));
        assert!(overlap.has_message(at("7-12"), "runs", None), "the last connection delivered it");
    }

    #[test]
    fn broadcast_during_the_opening_is_repeated_once() {
        let [early, both, twice, late] = ["early", "both", "twice", "late"].map(Utf8Bytes::from_static);
        let mut overlap = Overlap::default();
        assert!(!overlap.has_broadcast(&early, false));
        overlap.begin();
        for text in [&both, &twice, &twice] {
            assert!(!overlap.has_broadcast(text, true), "the last connection shows all of them");
        }
        overlap.hand_over(None);
        for (text, repeated) in [
            (&early, false),
            (&both, true),
            (&both, false),
            (&twice, true),
            (&twice, true),
            (&twice, false),
            (&late, false),
        ] {
            assert_eq!(overlap.has_broadcast(text, false), repeated, "{text}");
        }
    }

    #[test]
    fn broadcasts_beyond_the_limit_are_shown_again() {
        let texts: Vec<Utf8Bytes> = (0..=MOST_BROADCASTS).map(|number| number.to_string().into()).collect();
        let mut overlap = Overlap::default();
        overlap.begin();
        for text in &texts {
            overlap.has_broadcast(text, true);
        }
        overlap.hand_over(None);
        let repeated: Vec<bool> = texts.iter().map(|text| overlap.has_broadcast(text, false)).collect();
        assert_eq!(repeated.iter().filter(|repeated| **repeated).count(), MOST_BROADCASTS);
        assert!(!repeated[0]);
    }
}

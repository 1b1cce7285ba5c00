//! What comes over two connections, one of which goes on for the other: it is told once.
//!
//! Messages are known by their positions. Broadcasts have none, and are known by their texts, which have a timestamp and
//! are the same on every node.

use std::collections::{HashSet, VecDeque};

use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::message::Position;

/// Broadcasts that are remembered: if more come while a connection is being opened, it tells the first of them again.
const MOST_BROADCASTS: usize = 64;

/// What the last connection has told already.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    /// Where the last connection stood: up to there this one repeats.
    to: Option<Position>,
    /// The subscriptions that this one brings again as they are now, each as `topic` or `topic/key`.
    anew: HashSet<String>,
    /// Broadcasts of the last connection that this one may have yet to bring.
    before: VecDeque<Utf8Bytes>,
    /// Broadcasts of this one since the next is being opened.
    brought: VecDeque<Utf8Bytes>,
}

impl Overlap {
    /// The next connection is being opened: from now on it may bring what this one does.
    pub(super) fn begin(&mut self) {
        self.brought.clear();
    }

    /// The next connection goes on for this one, which stands there.
    pub(super) fn hand_over(&mut self, stands: Option<Position>) {
        self.to = stands;
        self.anew.clear();
        self.before = std::mem::take(&mut self.brought);
    }

    /// The connection brings a subscription as it is now.
    pub(super) fn bring_anew(&mut self, subscription: String) {
        self.anew.insert(subscription);
    }

    /// It is not known what the connection brings: nothing of it counts as repeated.
    pub(super) fn forget(&mut self) {
        self.to = None;
    }

    /// Whether the last connection stood there, or further on, in all topics.
    pub(super) fn has_reached(&self, at: Position) -> bool {
        self.anew.is_empty() && self.is_within(at)
    }

    /// Whether the last connection has brought this message.
    pub(super) fn has_message(&self, at: Position, topic: &str, key: Option<&str>) -> bool {
        self.is_within(at) && !self.anew.iter().any(|subscription| covers(subscription, topic, key))
    }

    /// Whether the last connection has brought this broadcast; where `is_opening` the next may have to know that this one has.
    pub(super) fn has_broadcast(&mut self, text: &Utf8Bytes, is_opening: bool) -> bool {
        if let Some(at) = self.before.iter().position(|before| before == text) {
            // One with the same text is another one.
            self.before.remove(at);
            return true;
        }
        if is_opening {
            self.brought.truncate(MOST_BROADCASTS - 1);
            self.brought.push_front(text.clone());
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
    fn a_message_is_repeated_up_to_where_the_last_connection_stood() {
        let overlap = handed_over("7-10");
        for (position, repeated) in [("7-9", true), ("7-10", true), ("7-11", false), ("8-1", false)] {
            assert_eq!(overlap.has_message(at(position), "odds", Some("1")), repeated, "{position}");
            assert_eq!(overlap.has_reached(at(position)), repeated, "{position}");
        }
        assert!(!Overlap::default().has_message(at("7-1"), "odds", None), "there was no last connection");
    }

    #[test]
    fn of_a_mixed_catch_up_only_what_is_brought_anew_is_told_again() {
        let mut overlap = handed_over("7-10");
        overlap.bring_anew("odds/8301/1x2".to_owned());
        overlap.bring_anew("runs".to_owned());
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
        assert!(!overlap.has_reached(at("7-9")), "one of them is not there yet");
        overlap.hand_over(Some(at("7-12")));
        assert!(overlap.has_message(at("7-12"), "runs", None), "it was brought anew to the last one");
    }

    #[test]
    fn a_broadcast_is_repeated_once_if_it_came_while_the_connection_was_being_opened() {
        let [early, both, twice, late] = ["early", "both", "twice", "late"].map(Utf8Bytes::from_static);
        let mut overlap = Overlap::default();
        assert!(!overlap.has_broadcast(&early, false));
        overlap.begin();
        for text in [&both, &twice, &twice] {
            assert!(!overlap.has_broadcast(text, true), "the last connection tells them all");
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
    fn of_more_broadcasts_than_are_remembered_the_first_are_told_again() {
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

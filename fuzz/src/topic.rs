//! Checks topics, keys, subscriptions, and lists of topics.

use oddswire::message::{Draft, Message, Payload, Position, Timestamp};
use oddswire::topic::{Key, Subscription, Topic, Topics};
use serde_json::Value;
use serde_json::value::RawValue;

/// Parses the input as a topic, a key and a list of topics. Parses the first four lines as subscriptions and compares
/// each pair.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    topic(text);
    key(text);
    topics(text);
    let subscriptions: Vec<Subscription> = text.lines().take(4).filter_map(subscription).collect();
    for one in &subscriptions {
        for other in &subscriptions {
            related(one, other);
        }
    }
}

fn topic(text: &str) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let valid = !text.is_empty() && text.len() <= 64 && text.chars().all(allowed);
    match text.parse::<Topic>() {
        Ok(topic) => assert!(valid && topic.as_str() == text && topic.to_string() == text),
        Err(error) => {
            assert!(!valid, "{text:?} is a topic");
            super::check_detail(&error.to_string());
        }
    }
}

fn key(text: &str) {
    let valid = text.len() <= 256
        && !text.contains(char::is_control)
        && !text.is_empty()
        && !text.starts_with('/')
        && !text.ends_with('/')
        && !text.contains("//");
    let key = match text.parse::<Key>() {
        Ok(key) => key,
        Err(error) => {
            assert!(!valid, "{text:?} is a key");
            return super::check_detail(&error.to_string());
        }
    };
    assert!(valid && key.as_str() == text && key.to_string() == text);
    let prefixes: Vec<Key> = key.prefixes().map(|prefix| prefix.parse().expect("a prefix is a key")).collect();
    assert_eq!(prefixes.len(), text.split('/').count());
    assert_eq!(prefixes.last(), Some(&key));
    for prefix in &prefixes {
        assert!(key.is_within(prefix));
        assert!(prefix == &key || !prefix.is_within(&key));
    }
    carried(&key);
}

/// Checks that the JSON of a message contains the key unchanged.
fn carried(key: &Key) {
    let payload = Payload::keyed(key.clone(), RawValue::TRUE.to_owned());
    let draft = Draft { topic: "odds_updates".parse().expect("a topic"), payload };
    let message = Message::new(&draft, Position { epoch: 1, offset: 1 }, Timestamp::from_millis(0));
    let json: Value = serde_json::from_slice(message.frames().text()).expect("a message is JSON");
    assert_eq!(json["key"], key.as_str());
    assert_eq!(message.data(), b"true");
}

fn subscription(text: &str) -> Option<Subscription> {
    let (topic, key) = text.split_once('/').map_or((text, None), |(topic, key)| (topic, Some(key)));
    let valid = topic.parse::<Topic>().is_ok() && key.is_none_or(|key| key.parse::<Key>().is_ok());
    match text.parse::<Subscription>() {
        Ok(subscription) => {
            assert!(valid);
            assert_eq!(subscription.to_string(), text, "a subscription reads back as written");
            assert_eq!(serde_json::to_value(&subscription).expect("a subscription is a string"), text);
            Some(subscription)
        }
        Err(error) => {
            assert!(!valid, "{text:?} is a subscription");
            super::check_detail(&error.to_string());
            None
        }
    }
}

/// Checks whether two subscriptions overlap, which means that both cover the same key. Their order does not matter.
fn related(one: &Subscription, other: &Subscription) {
    assert_eq!(one.overlaps(other), other.overlaps(one));
    assert!(one.overlaps(one));
    assert!(one.key().is_none() || one.covers(one.key()));
    if one.topic() == other.topic() && other.key().is_some() && one.covers(other.key()) {
        assert!(one.overlaps(other), "'{one}' covers '{other}'");
    }
}

fn topics(text: &str) {
    match text.parse::<Topics>() {
        Ok(topics) => {
            let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
            assert!(text.split(',').all(|name| names.contains(&name.trim())));
            assert!(names.iter().all(|name| topics.get(name).is_some_and(|topic| topic.as_str() == *name)));
            assert_eq!(topics.to_string().parse(), Ok(topics), "a list reads back as written");
        }
        Err(error) => super::check_detail(&error.to_string()),
    }
}

//! Checks messages from WebSocket clients: the parser, and the effect of a message in the manager.

use std::collections::BTreeSet;

use oddswire::log::Since;
use oddswire::manager::Connect;
use oddswire::protocol::{self, ClientMessage, ClientMessageError};
use oddswire::topic::Subscription;
use serde_json::json;

use super::service::{drain, manager};

/// Parses the input as a client's text message.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match ClientMessage::parse(text) {
        Ok(message) => {
            assert_eq!(
                ClientMessage::parse(&written(&message)).as_ref(),
                Ok(&message),
                "a message reads back as written"
            );
            assert_eq!(
                ClientMessage::parse(&format!(" \n{text}\t")).as_ref(),
                Ok(&message),
                "white space around a message has no effect"
            );
            apply(message);
        }
        Err(error) => rejected(text, &error),
    }
}

fn written(message: &ClientMessage) -> String {
    let since = |since: &Since| match since {
        Since::Now => "now".to_owned(),
        Since::Snapshot => "snapshot".to_owned(),
        Since::Position(position) => position.to_string(),
    };
    let json = match message {
        ClientMessage::Ping => json!({"type": "ping"}),
        ClientMessage::Subscribe { topics, since: from } => {
            json!({"type": "subscribe", "topics": topics, "since": since(from)})
        }
        ClientMessage::Unsubscribe { topics } => json!({"type": "unsubscribe", "topics": topics}),
        ClientMessage::Auth { token } => json!({"type": "auth", "token": token.expose()}),
    };
    json.to_string()
}

fn rejected(text: &str, error: &ClientMessageError) {
    super::check_detail(&error.to_string());
    if let ClientMessageError::BadRequest(detail) = error {
        assert!(serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value["type"].is_string()));
        let response = protocol::error("bad_request", detail, &[]);
        serde_json::from_slice::<serde_json::Value>(response.text()).expect("the response is JSON");
    }
}

/// Applies a message to a connection. The connection keeps known subscriptions, sorted, without duplicates, up to a
/// limit. Dropping the connection removes them.
fn apply(message: ClientMessage) {
    let manager = manager();
    let (connection, mut receiver) = manager.connect(Connect::to(Vec::new()));
    match message {
        ClientMessage::Subscribe { topics, since } => {
            let (known, _) = manager.topics().partition(topics);
            let wanted: BTreeSet<Subscription> = known.iter().cloned().collect();
            match connection.subscribe(known, since) {
                Ok(held) => assert!(held.iter().eq(&wanted), "{held:?} differ from {wanted:?}"),
                Err(_) => assert!(wanted.len() > manager.subscriptions_limit()),
            }
            drain(&connection, &mut receiver);
            let all: Vec<Subscription> = wanted.into_iter().collect();
            assert_eq!(connection.unsubscribe(&all), []);
        }
        ClientMessage::Unsubscribe { topics } => assert_eq!(connection.unsubscribe(&topics), []),
        ClientMessage::Ping | ClientMessage::Auth { .. } => {}
    }
    drain(&connection, &mut receiver);
    drop(connection);
    assert_eq!(manager.active_count(), 0);
}

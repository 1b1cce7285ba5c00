//! Uses the connection manager without a server: publishes prices and reads them from a subscriber's outbox.
//!
//! Run it with `cargo run --example manager`.

use std::error::Error;

use oddswire::log::{Log, LogLimits};
use oddswire::manager::{Connect, ConnectionManager, ManagerLimits};
use oddswire::message::Payload;
use oddswire::topic::Topics;
use serde_json::{json, value::to_raw_value};
use slog::{Discard, Logger, o};

fn main() -> Result<(), Box<dyn Error>> {
    let topics: Topics = "scrape_progress,odds_updates".parse()?;
    // The epoch of the message sequence: when the sequence began, in Unix milliseconds.
    let log = Log::new(1_763_849_000_000, &topics, LogLimits::default());
    let logger = Logger::root(Discard, o!());
    let manager = ConnectionManager::new(topics.clone(), log, ManagerLimits::default(), logger);

    // Subscribe to one event. The code that reads from the outbox acts as the client.
    let (connection, mut outbox) = manager.connect(Connect::to(vec!["odds_updates/8301".parse()?]));

    let odds_updates = topics.get("odds_updates").ok_or("the topic is in the list above")?;
    for (key, price) in [("8301/1x2/betpawa", 1.85), ("8302/1x2/betpawa", 2.10), ("8301/1x2/betpawa", 1.90)] {
        let payload = Payload::keyed(key.parse()?, to_raw_value(&json!({"home": price}))?);
        manager.broadcast(payload, odds_updates)?;
    }

    // Print the acknowledgement, then the two prices of event 8301.
    while let Some(item) = outbox.try_recv() {
        if let Some(frames) = item.frames() {
            println!("{}", String::from_utf8_lossy(frames.text()));
        }
    }
    drop(connection);
    assert_eq!(manager.active_count(), 0, "a dropped guard ends the registration");
    Ok(())
}

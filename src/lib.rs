//! oddswire pushes scrape progress and odds changes to browsers over WebSocket and SSE, by topic.
//!
//! One sentence to hold on to: a client is always either up to date or told exactly how it is not.
//!
//! The modules, in reading order:
//!
//! - [`topic`], [`message`], [`close`]: the vocabulary. Valid by type, encoded once.
//! - [`log`]: history, state and catch-up; pure.
//! - [`protocol`], [`outbox`]: what is said beside the messages, and the channel to one client.
//! - [`manager`]: who is connected and to what.
//! - [`engine`]: who orders and keeps messages.
//! - [`session`], [`routes`]: WebSocket connections and the HTTP surface.
//! - [`server`], [`config`], [`telemetry`]: the program.
//!
//! The commands at a terminal belong to the program (`src/main.rs`), which uses this library through its public API.
//!
//! # Without the server
//!
//! The manager works alone: whatever drains an outbox is a client.
//!
//! ```
//! use oddswire::log::Log;
//! use oddswire::manager::{Connect, ConnectionManager, ManagerLimits};
//! use oddswire::message::Payload;
//! use oddswire::topic::Topics;
//!
//! let topics: Topics = "scrape_progress,odds_updates".parse()?;
//! let log = Log::new(1763849000000, &topics, oddswire::log::LogLimits::default());
//! let logger = slog::Logger::root(slog::Discard, slog::o!());
//! let manager = ConnectionManager::new(topics.clone(), log, ManagerLimits::default(), logger);
//!
//! let (connection, mut outbox) = manager.connect(Connect::to(vec!["odds_updates/8301".parse()?]));
//! let ack = outbox.try_recv().unwrap();
//! assert!(ack.frames().unwrap().text().starts_with(br#"{"type":"connection_ack""#));
//!
//! let price = serde_json::value::to_raw_value(&serde_json::json!({"price": 1.85}))?;
//! let odds = topics.get("odds_updates").unwrap();
//! manager.broadcast(Payload::keyed("8301/1x2/betpawa".parse()?, price), odds)?;
//! let update = outbox.try_recv().unwrap();
//! assert!(update.frames().unwrap().text().ends_with(br#""data":{"price":1.85}}"#));
//!
//! drop(connection);
//! assert_eq!(manager.active_count(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(
    not(all(feature = "journal", feature = "redis")),
    allow(dead_code, reason = "the engines that are left out use parts that the memory engine does not")
)]

pub mod admission;
pub mod auth;
pub mod close;
pub mod config;
mod connection;
pub mod engine;
mod host;
mod index;
mod listener;
pub mod log;
pub mod manager;
pub mod message;
pub mod metrics;
pub mod outbox;
pub mod protocol;
mod rate;
pub mod routes;
pub mod server;
pub mod session;
mod shortened;
pub mod telemetry;
pub mod topic;

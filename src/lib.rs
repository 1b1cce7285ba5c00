//! oddswire pushes live state to browsers over WebSocket and SSE, by topic.
//!
//! The design keeps one promise: each client is up to date, or the server tells the client in which way it is not.
//!
//! - [`topic`], [`message`], [`close`]: topics, keys, messages and close codes. These types hold only valid values.
//! - [`log`]: history, state and catch-up.
//! - [`manager`]: connections, with the subscriptions and the outbox of each.
//! - [`server`], [`config`], [`telemetry`]: the server, the settings and the log.
//!
//! All other modules are private. The feature `internals` publishes the modules that the benchmark and the fuzz targets
//! use; these modules may change at any time. Commands such as `tail` belong to the program (`src/main.rs`).
//!
//! # Without the server
//!
//! The manager works without the server. Code that reads an outbox acts as a client.
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
    allow(dead_code, reason = "some parts are only for an engine that this build lacks")
)]
#![cfg_attr(
    not(feature = "internals"),
    allow(unreachable_pub, reason = "the benchmark and the fuzz targets use parts that others cannot reach")
)]

pub mod close;
pub mod config;
mod connection;
mod host;
mod index;
mod listener;
pub mod log;
pub mod manager;
pub mod message;
mod metrics;
mod rate;
pub mod server;
mod session;
mod shortened;
pub mod telemetry;
pub mod topic;

#[cfg(not(feature = "internals"))]
mod admission;
#[cfg(not(feature = "internals"))]
mod auth;
#[cfg(not(feature = "internals"))]
mod engine;
#[cfg(not(feature = "internals"))]
mod outbox;
#[cfg(not(feature = "internals"))]
mod protocol;
#[cfg(not(feature = "internals"))]
mod routes;

// The feature `internals` makes these modules public, only for the benchmark and the fuzz targets. They are declared
// twice, because rustfmt does not find modules that a macro declares.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod admission;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod auth;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod engine;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod outbox;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod protocol;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod routes;

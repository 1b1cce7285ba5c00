//! One binary: the real server on port 0, real clients. One file a behaviour.

// A test binary has no outside: everything in it may be `pub`.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "a test owns the tasks that it spawns, and reads its environment")]

mod harness;

mod attacks;
mod auth;
mod broadcast;
mod browser;
mod budget;
mod catch_up;
mod clients;
mod command_demo;
mod command_publish;
mod command_replay;
mod command_shell;
mod command_tail;
mod command_top;
mod console;
mod console_barriers;
mod console_connection;
mod console_files;
mod contract;
mod corpora;
mod descriptors;
mod draining;
mod examples;
mod handshake;
mod interleavings;
mod journal;
mod lifecycle;
mod limits;
mod logs;
mod manual;
mod messages;
mod metrics;
mod monitoring;
mod origins;
mod panics;
mod process;
mod proxies;
mod publish_limits;
mod publishers;
mod publishing;
mod reads;
mod redis;
mod redis_faults;
mod redis_links;
mod redis_tail;
mod replay;
mod retries;
mod rfc6455;
mod rolling;
mod settings;
mod slow;
mod sse;
mod takeover;
mod tokens;
mod websocket;

//! The load generator: publishers and subscribers, and the messages between them.

pub mod connection;
pub mod fanout;
pub mod frames;
pub mod head;
pub mod measurement;
pub mod message;
pub mod publisher;
pub mod schedule;
pub mod swarm;
pub mod tally;

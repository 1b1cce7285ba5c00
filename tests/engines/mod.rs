//! The storage engines: the journal's file, and nodes on one Redis.

mod journal;
mod redis;
mod redis_faults;
mod redis_links;
mod redis_tail;
mod rolling;

//! The console: its files, and its page in a real browser.

mod barriers;
mod connection;
mod files;
mod page;

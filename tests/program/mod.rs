//! The program as a process: settings, logs, signals and restarts; and the documents that describe it.

mod corpora;
mod descriptors;
mod embedding;
mod examples;
mod logs;
mod manual;
mod process;
mod settings;
mod systemd;
mod takeover;

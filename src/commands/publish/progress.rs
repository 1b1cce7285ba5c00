//! Saves the number of the last published line in a progress file.
//!
//! The file is replaced after each batch. It holds a name of the run, which is part of each `Idempotency-Key`. After an
//! interruption, the next run repeats the unconfirmed batch with the same key, so the server takes the batch once. The
//! server remembers keys for five minutes. After a longer interruption it may take this one batch twice.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use oddswire::message::Timestamp;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Batch, publisher};
use crate::commands::settings::Publish;
use crate::commands::{Failure, counted};

/// The progress of a run, and the path of its progress file.
pub(super) struct Progress {
    path: PathBuf,
    kept: Kept,
}

/// The content of the progress file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The random name of the run.
    run: String,
    /// The URL of the server.
    url: String,
    /// The path of the published file.
    file: PathBuf,
    /// Length and modification time of the published file, if it is a regular file. If the file has changed, the lines
    /// up to `line` may differ from the lines that were published.
    stamp: Option<Stamp>,
    /// The settings that decide which lines are in a request. With different settings, the repeated batch would have a
    /// different key, and the server would take its messages twice.
    requests: String,
    /// The number of the last line that the server took.
    line: u64,
}

/// Why a new run cannot continue the saved run.
enum Differs {
    /// The arguments differ: a usage error.
    Arguments(String),
    /// The server or the file differs: a failure.
    Source(String),
}

/// Length and modification time of a file, to detect whether the file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    bytes: u64,
    /// Modification time, in Unix milliseconds.
    modified: i64,
}

impl Stamp {
    fn of(file: &Path) -> io::Result<Option<Self>> {
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Ok(None);
        }
        let modified = Timestamp::from(OffsetDateTime::from(facts.modified()?)).as_millis();
        Ok(Some(Self { bytes: facts.len(), modified }))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", counted(self.bytes, "byte"), Timestamp::from_millis(self.modified))
    }
}

impl Kept {
    /// The state of a new run before its first batch.
    fn begin(settings: &Publish) -> Result<Self, Failure> {
        let file = &settings.file;
        let unreadable = |error| Failure::Usage(format!("cannot read {}: {error}", file.display()));
        let stamp = Stamp::of(file).map_err(unreadable)?;
        let topic = settings.topic.as_ref().map(|topic| format!("--topic {topic} ")).unwrap_or_default();
        let (messages, bytes) = (settings.batch_messages, settings.batch_bytes);
        Ok(Self {
            run: publisher::run_name(),
            url: settings.target.url.to_string(),
            file: file.canonicalize().map_err(unreadable)?,
            stamp,
            requests: format!("{topic}--batch-messages {messages} --batch-bytes {bytes}B"),
            line: 0,
        })
    }

    /// Returns why `begun`, a new run with the current arguments, cannot continue this run.
    fn differs_from(&self, begun: &Self) -> Option<Differs> {
        if self.file != begun.file {
            return Some(Differs::Arguments(format!("it belongs to {}", self.file.display())));
        }
        if self.requests != begun.requests {
            return Some(Differs::Arguments(format!("it was started with {}: use the same settings", self.requests)));
        }
        if self.url != begun.url {
            let (there, here) = (&self.url, &begun.url);
            return Some(Differs::Source(format!("it belongs to {there}, not {here}: continue with --url {there}")));
        }
        if self.stamp != begun.stamp {
            let told = |stamp: Option<Stamp>| stamp.map_or("not a regular file".to_owned(), |stamp| stamp.to_string());
            let (was, is) = (told(self.stamp), told(begun.stamp));
            return Some(Differs::Source(format!(
                "{} has changed: it was {was}, now it is {is}: restore it",
                self.file.display()
            )));
        }
        None
    }
}

impl Progress {
    /// Continues the run in the progress file, or begins a new run if the file does not exist.
    pub(super) fn open(path: &Path, settings: &Publish) -> Result<Self, Failure> {
        let named = |reason: String| format!("progress file '{}': {reason}", path.display());
        let refused = |reason: String| Failure::Usage(named(reason));
        if settings.file.as_os_str() == "-" {
            return Err(refused("standard input cannot be read a second time: give a file to publish".to_owned()));
        }
        let begun = Kept::begin(settings)?;
        let kept = match std::fs::read(path) {
            Ok(text) => {
                let kept: Kept = serde_json::from_slice(&text)
                    .map_err(|error| refused(format!("not a progress file of oddswire: {error}")))?;
                match kept.differs_from(&begun) {
                    None => kept,
                    Some(Differs::Arguments(reason)) => return Err(refused(reason)),
                    Some(Differs::Source(reason)) => {
                        return Err(Failure::Failed(named(reason + ", or remove the progress file to start over")));
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => begun,
            Err(error) => return Err(refused(error.to_string())),
        };
        // Write the file now, so that an error is reported before anything is published.
        let progress = Self { path: path.to_owned(), kept };
        progress.write()?;
        Ok(progress)
    }

    /// The number of the last line that the server took.
    pub(super) fn line(&self) -> u64 {
        self.kept.line
    }

    /// The `Idempotency-Key` of a batch. A repeated batch has the same key.
    pub(super) fn key(&self, batch: &Batch) -> String {
        format!("{}-{}-{}", self.kept.run, batch.first_line(), batch.last_line())
    }

    /// Saves that the server took all lines up to this line.
    pub(super) fn reached(&mut self, line: u64) -> Result<(), Failure> {
        self.kept.line = line;
        self.write()
    }

    /// Removes the progress file, because the server took all lines.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.path).map_err(|error| self.failed(&error))
    }

    fn write(&self) -> Result<(), Failure> {
        let text = serde_json::to_vec(&self.kept).expect("names and numbers always serialise");
        // A rename replaces a file only within one file system, so the new file is in the same folder.
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path));
        written.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::Failed(format!("progress file '{}': {error}", self.path.display()))
    }
}

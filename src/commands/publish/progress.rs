//! Remembers in a file how far publishing came.
//!
//! The file is replaced whole after each batch. It names the run, and so do the `Idempotency-Key`s: a run that goes on
//! sends the batch that was under way under the same key again, and the server takes it once. It remembers keys for five
//! minutes: after a longer interruption that one batch may come twice.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Batch, publisher};
use crate::commands::Failure;
use crate::config::commands::Publish;
use crate::message::Timestamp;

/// How far a run came.
pub(super) struct Progress {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The name of the run.
    run: String,
    /// Where it is published.
    url: String,
    /// What is published.
    file: PathBuf,
    /// How long the file is and when it was changed, where it is a regular one: in another file, the lines up to `line`
    /// may be others.
    stamp: Option<Stamp>,
    /// How lines become requests: with other settings, what was under way could not be told from what was not.
    requests: String,
    /// The last line that was taken.
    line: u64,
}

/// What hinders a run from going on.
enum Differs {
    /// What is asked for.
    Asked(String),
    /// What there is.
    Found(String),
}

/// What tells a file from another one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    bytes: u64,
    /// In Unix milliseconds.
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
        write!(f, "{} bytes of {}", self.bytes, Timestamp::from_millis(self.modified))
    }
}

impl Kept {
    /// A run that begins.
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

    /// Why `begun`, which would begin now, cannot go on where this one is.
    fn differs_from(&self, begun: &Self) -> Option<Differs> {
        if self.file != begun.file {
            return Some(Differs::Asked(format!("it is about {}", self.file.display())));
        }
        if self.requests != begun.requests {
            return Some(Differs::Asked(format!("it was begun with {}: go on with the same", self.requests)));
        }
        if self.url != begun.url {
            let (there, here) = (&self.url, &begun.url);
            return Some(Differs::Found(format!("it is about {there}, not {here}: go on with --url {there}")));
        }
        if self.stamp != begun.stamp {
            let told = |stamp: Option<Stamp>| stamp.map_or("no regular file".to_owned(), |stamp| stamp.to_string());
            let (was, is) = (told(self.stamp), told(begun.stamp));
            return Some(Differs::Found(format!(
                "{} has changed: it was {was}, and is {is}: restore it",
                self.file.display()
            )));
        }
        None
    }
}

impl Progress {
    /// Goes on where the file says, or begins where there is none.
    pub(super) fn open(path: &Path, settings: &Publish) -> Result<Self, Failure> {
        let named = |reason: String| format!("progress file '{}': {reason}", path.display());
        let refused = |reason: String| Failure::Usage(named(reason));
        if settings.file.as_os_str() == "-" {
            return Err(refused("standard input cannot be read a second time: name a file".to_owned()));
        }
        let begun = Kept::begin(settings)?;
        let kept = match std::fs::read(path) {
            Ok(text) => {
                let kept: Kept =
                    serde_json::from_slice(&text).map_err(|error| refused(format!("not one of ours: {error}")))?;
                match kept.differs_from(&begun) {
                    None => kept,
                    Some(Differs::Asked(reason)) => return Err(refused(reason)),
                    Some(Differs::Found(reason)) => {
                        return Err(Failure::Failed(named(reason + ", or remove the progress file to begin anew")));
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => begun,
            Err(error) => return Err(refused(error.to_string())),
        };
        // What cannot be written is told before anything is published.
        let progress = Self { path: path.to_owned(), kept };
        progress.write()?;
        Ok(progress)
    }

    /// The last line that was taken.
    pub(super) fn line(&self) -> u64 {
        self.kept.line
    }

    /// The `Idempotency-Key` of a batch: the same whenever it is sent.
    pub(super) fn key(&self, batch: &Batch) -> String {
        format!("{}-{}-{}", self.kept.run, batch.first_line(), batch.last_line())
    }

    /// Remembers that all up to this line is taken.
    pub(super) fn reached(&mut self, line: u64) -> Result<(), Failure> {
        self.kept.line = line;
        self.write()
    }

    /// Forgets the run: all is taken.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.path).map_err(|error| self.failed(&error))
    }

    fn write(&self) -> Result<(), Failure> {
        let text = serde_json::to_vec(&self.kept).expect("names and numbers always serialise");
        // Beside it, since a file can only be replaced by one of the same file system.
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &self.path));
        written.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::Failed(format!("progress file '{}': {error}", self.path.display()))
    }
}

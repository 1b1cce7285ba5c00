//! Remembers in a file how far publishing came.
//!
//! The file is replaced whole after each batch. It names the run, and so do the `Idempotency-Key`s: a run that goes on
//! sends the batch that was under way under the same key again, and the server takes it once. It remembers keys for five
//! minutes: after a longer interruption that one batch may come twice.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Batch, publisher};
use crate::commands::Failure;
use crate::config::commands::Publish;

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
    /// What is published.
    file: PathBuf,
    /// How lines become requests: with other settings, what was under way could not be told from what was not.
    requests: String,
    /// The last line that was taken.
    line: u64,
}

impl Progress {
    /// Goes on where the file says, or begins where there is none.
    pub(super) fn open(path: &Path, settings: &Publish) -> Result<Self, Failure> {
        let file = &settings.file;
        let refused = |reason: String| Failure::Usage(format!("progress file '{}': {reason}", path.display()));
        if file.as_os_str() == "-" {
            return Err(refused("standard input cannot be read a second time: name a file".to_owned()));
        }
        let file =
            file.canonicalize().map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
        let topic = settings.topic.as_ref().map(|topic| format!("--topic {topic} ")).unwrap_or_default();
        let (messages, bytes) = (settings.batch_messages, settings.batch_bytes);
        let requests = format!("{topic}--batch-messages {messages} --batch-bytes {bytes}B");
        let kept = match std::fs::read(path) {
            Ok(text) => {
                let kept: Kept =
                    serde_json::from_slice(&text).map_err(|error| refused(format!("not one of ours: {error}")))?;
                if kept.file != file {
                    return Err(refused(format!("it is about {}", kept.file.display())));
                }
                if kept.requests != requests {
                    return Err(refused(format!("it was begun with {}: go on with the same", kept.requests)));
                }
                kept
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Kept { run: publisher::run_name(), file, requests, line: 0 }
            }
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

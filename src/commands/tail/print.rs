//! Writes messages to standard output and notices to standard error, in order, in a separate thread.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::notice::{Look, Notice};
use super::show::{self, Show};
use crate::commands::Failure;
use crate::commands::settings::Tail;

/// The maximum number of lines that wait to be written. While the queue is full, tail does not read from the
/// connection, and the server keeps further messages.
const QUEUE: usize = 256;
/// The maximum time to write the remaining lines when the program ends. If the output is not being read, the program
/// must still end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A line to write.
#[derive(Debug)]
pub(super) enum Line {
    /// A message from the server.
    Message(Utf8Bytes),
    /// A notice about the connection.
    Notice(Notice),
}

/// The thread that writes, and the queue of its lines.
pub(super) struct Printer {
    lines: Sender<Line>,
    writing: JoinHandle<io::Result<()>>,
}

impl Printer {
    pub(super) fn start(settings: &Tail) -> Self {
        let (lines, queue) = mpsc::channel(QUEUE);
        let show = (!settings.json).then(|| Show::new(Look::of(&io::stdout()), settings.full));
        let writing = tokio::task::spawn_blocking(move || write(queue, show));
        Self { lines, writing }
    }

    /// The queue of lines. It closes when standard output is closed.
    pub(super) fn lines(&self) -> Sender<Line> {
        self.lines.clone()
    }

    /// Writes the remaining lines of the queue. A closed standard output is not an error.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.lines);
        match tokio::time::timeout(FLUSH_TIMEOUT, self.writing).await {
            Ok(Ok(Err(error))) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::Failed(format!("cannot write: {error}")))
            }
            _ => Ok(()),
        }
    }
}

fn write(mut queue: Receiver<Line>, mut show: Option<Show>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let notices = Look::of(&io::stderr());
    while let Some(line) = queue.blocking_recv() {
        match line {
            Line::Message(text) => match &mut show {
                Some(show) => out.write_all(show.message(&text).as_bytes())?,
                None => write_raw(&mut out, text.as_bytes())?,
            },
            Line::Notice(notice) => {
                // Standard output and standard error may be the same terminal. Earlier messages must appear before the
                // notice.
                out.flush()?;
                let line = show::notice(&notice, notices.colour);
                io::stderr().write_all(line.as_bytes())?;
            }
        }
        if queue.is_empty() {
            out.flush()?;
        }
    }
    out.flush()
}

/// Writes a message as one line: replaces line breaks with spaces. JSON has raw line breaks only between tokens, where
/// a space means the same.
fn write_raw(out: &mut impl Write, text: &[u8]) -> io::Result<()> {
    for part in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        match part.split_last() {
            Some((b'\n' | b'\r', rest)) => {
                out.write_all(rest)?;
                out.write_all(b" ")?;
            }
            _ => out.write_all(part)?,
        }
    }
    out.write_all(b"\n")
}

/// Waits until the reader of standard output closes the pipe, even if there is nothing to write.
pub(super) async fn reader_gone() {
    let watched = io::stdout().as_fd().try_clone_to_owned();
    // If standard output is a file, the system cannot watch it, and no reader can close it. This descriptor is only
    // watched, never written to, so it may be in blocking mode.
    let watched = watched.and_then(|fd| pipe::Sender::from_file_unchecked(fd.into()));
    if let Ok(watched) = watched
        && watched.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_message_is_one_line() {
        let mut out = Vec::new();
        write_raw(&mut out, b"{\"data\":{\r\n\"a\":1}\n}").unwrap();
        assert_eq!(out, b"{\"data\":{  \"a\":1} }\n");
    }
}

//! Writes messages to standard output and notices to standard error, in one order, in a thread of its own.

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
use crate::config::commands::Tail;

/// What may wait to be written. When it is full the connection is not read from, and the server keeps what comes next.
const QUEUE: usize = 256;
/// At the end, what waits is written within this time or not at all: somebody may have stopped reading.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is to be written.
#[derive(Debug)]
pub(super) enum Line {
    /// What the server sent.
    Message(Utf8Bytes),
    /// What is to be said of the connection.
    Notice(Notice),
}

/// The thread that writes.
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

    /// Where lines are handed in; closed once nobody reads what is written.
    pub(super) fn lines(&self) -> Sender<Line> {
        self.lines.clone()
    }

    /// Writes what waits. A reader that is gone is a normal end.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.lines);
        match tokio::time::timeout(LAST_WORDS, self.writing).await {
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
                // What came before stands before it, where both go to the same terminal.
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

/// One message, one line: JSON can only have line breaks between its tokens, where a space says the same.
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

/// Waits until nobody can read standard output any more, also where nothing comes that could be written to it.
pub(super) async fn reader_gone() {
    let watched = io::stdout().as_fd().try_clone_to_owned();
    // What the system cannot watch, such as a file, has no reader that could go. Nothing is written here, so it does not
    // matter that a write would wait.
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
    fn a_raw_message_is_one_line() {
        let mut out = Vec::new();
        write_raw(&mut out, b"{\"data\":{\r\n\"a\":1}\n}").unwrap();
        assert_eq!(out, b"{\"data\":{  \"a\":1} }\n");
    }
}

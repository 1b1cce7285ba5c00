//! Publishes over HTTP, each connection from a thread of its own.
//!
//! A request waits for its answer. One that was due while an earlier one still waited goes out late, but its messages
//! carry the time at which they were due: what a subscriber then sees as latency includes that wait, so a server
//! that is slow to take messages cannot hide it (coordinated omission).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::dialect::Dialect;
use crate::head::Head;
use crate::message::Clock;
use crate::schedule::Schedule;
use crate::servers::TOKEN;

/// How long a server may take to answer a publish.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The longest response body that is taken.
const MAX_BODY: usize = 64 * 1024;

/// What was published.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    pub messages: u64,
    pub requests: u64,
    /// The longest time that a request went out after it was due: high where the server is slow to answer.
    pub late: Duration,
}

impl Published {
    pub fn add(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            requests: self.requests + other.requests,
            late: self.late.max(other.late),
        }
    }
}

/// Which requests of a schedule a connection makes: every `of`th, beginning with `first`.
#[derive(Clone, Copy)]
pub struct Share {
    pub first: usize,
    pub of: usize,
}

/// A keep-alive connection that publishes.
pub struct Publisher {
    address: SocketAddr,
    dialect: Dialect,
    stream: TcpStream,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Publisher {
    pub fn connect(address: SocketAddr, dialect: Dialect) -> Result<Self> {
        let stream = TcpStream::connect(address).context("could not connect to publish")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { address, dialect, stream, request: Vec::new(), response: Vec::new() })
    }

    /// Publishes a body of so many messages and waits for the answer.
    pub fn publish(&mut self, body: &str, messages: usize) -> Result<()> {
        self.request.clear();
        write!(
            self.request,
            "POST /api/publish HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            self.dialect.content_type(messages),
            body.len()
        )?;
        self.stream.write_all(&self.request).context("could not publish")?;
        self.answer().context("a publish failed")
    }

    fn answer(&mut self) -> Result<()> {
        self.response.clear();
        let mut chunk = [0; 4096];
        loop {
            let count = self.stream.read(&mut chunk)?;
            ensure!(count > 0, "the server closed the connection");
            self.response.extend_from_slice(&chunk[..count]);
            let Some(head) = Head::parse(&self.response)? else { continue };
            let length = head.content_length.unwrap_or_default();
            ensure!(!head.chunked && length <= MAX_BODY, "the answer has a body of unknown or excessive length");
            if self.response.len() >= head.size + length {
                let body = String::from_utf8_lossy(&self.response[head.size..]);
                ensure!((200..300).contains(&head.status), "status {}: {body}", head.status);
                return Ok(());
            }
        }
    }

    /// Makes this connection's share of the requests, until they end or `stop` says so.
    pub fn run(
        &mut self,
        schedule: &Schedule,
        share: Share,
        start: Instant,
        clock: Clock,
        stop: &Receiver<()>,
    ) -> Result<Published> {
        let mut body = String::new();
        let mut published = Published::default();
        let mut number = share.first;
        while let Some(request) = schedule.request(number) {
            let stamp = match request.due {
                Some(due) if !waited_until(start + due, stop) => break,
                Some(due) => start + due,
                None if is_over(schedule, start, stop) => break,
                None => Instant::now(),
            };
            published.late = published.late.max(stamp.elapsed());
            let messages = request.messages.len();
            schedule.write(&mut body, self.dialect, request.messages, clock.at(stamp));
            self.publish(&body, messages)?;
            published.messages += messages as u64;
            published.requests += 1;
            number += share.of;
        }
        Ok(published)
    }
}

/// Waits for a moment and returns whether nothing stopped it. The channel is what wakes a waiting thread early.
fn waited_until(moment: Instant, stop: &Receiver<()>) -> bool {
    let left = moment.saturating_duration_since(Instant::now());
    matches!(stop.recv_timeout(left), Err(RecvTimeoutError::Timeout))
}

fn is_over(schedule: &Schedule, start: Instant, stop: &Receiver<()>) -> bool {
    start.elapsed() >= schedule.lasts() || !matches!(stop.try_recv(), Err(TryRecvError::Empty))
}

/// Publishes the state of a server at once: each key with its data.
pub fn fill(address: SocketAddr, dialect: Dialect, state: &[(String, String)]) -> Result<()> {
    /// As many messages as a request has, where the server takes several.
    const BATCH: usize = 500;
    let mut publisher = Publisher::connect(address, dialect)?;
    let mut body = String::new();
    for part in state.chunks(if dialect.takes_batches() { BATCH } else { 1 }) {
        body.clear();
        for (key, data) in part {
            crate::message::write(&mut body, dialect, key, data);
            body.push('\n');
        }
        // A batch of one is a line, too, which either content type takes.
        publisher.publish(&body, part.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_early_when_the_other_side_has_gone() {
        let (sender, stop) = std::sync::mpsc::channel::<()>();
        assert!(waited_until(Instant::now(), &stop));
        drop(sender);
        assert!(!waited_until(Instant::now() + Duration::from_mins(1), &stop));
    }
}

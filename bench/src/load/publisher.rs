//! Publishes over HTTP. Each connection has its own thread.
//!
//! A publisher waits for each response. If a slow response delays the next request, the messages of that request still
//! contain the time at which they were due. The measured latency therefore includes the delay, which avoids coordinated
//! omission.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::head::Head;
use crate::load::message::{self, Clock};
use crate::load::schedule::Schedule;
use crate::server::dialect::Dialect;
use crate::server::spec::TOKEN;

/// How long a server may take to respond to a publish.
const RESPONSE_LIMIT: Duration = Duration::from_secs(30);

/// The maximum length of a response body in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The requests that one connection sends: every `of`th of a schedule, beginning with number `first`.
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
        let stream = TcpStream::connect(address).context("cannot connect to publish")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(RESPONSE_LIMIT))?;
        stream.set_write_timeout(Some(RESPONSE_LIMIT))?;
        Ok(Self { address, dialect, stream, request: Vec::new(), response: Vec::new() })
    }

    /// Publishes a body that contains `messages` messages, and waits for the response.
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
        self.stream.write_all(&self.request).context("cannot publish")?;
        self.read_response().context("a publish failed")
    }

    fn read_response(&mut self) -> Result<()> {
        self.response.clear();
        let mut chunk = [0; 4096];
        loop {
            let count = self.stream.read(&mut chunk)?;
            ensure!(count > 0, "the server closed the connection");
            self.response.extend_from_slice(&chunk[..count]);
            let Some(head) = Head::parse(&self.response)? else { continue };
            // A response with the status 204 has neither a body nor a length.
            let length = head.content_length.unwrap_or_default();
            ensure!(length <= MAX_BODY, "the response body has {length} bytes: expected at most {MAX_BODY}");
            if self.response.len() >= head.size + length {
                let body = String::from_utf8_lossy(&self.response[head.size..]);
                ensure!((200..300).contains(&head.status), "status {}: {body}", head.status);
                return Ok(());
            }
        }
    }

    /// Sends this connection's share of the requests. Ends with the schedule, or when the main thread closes the
    /// channel `stop`. Returns the number of published messages.
    pub fn run(
        &mut self,
        schedule: &Schedule,
        share: Share,
        start: Instant,
        clock: Clock,
        stop: &Receiver<()>,
    ) -> Result<u64> {
        let mut body = String::new();
        let mut published = 0;
        let mut number = share.first;
        while let Some(request) = schedule.request(number) {
            let stamp = match request.due {
                Some(due) if !waited_until(start + due, stop) => break,
                Some(due) => start + due,
                None if is_over(schedule, start, stop) => break,
                None => Instant::now(),
            };
            let messages = request.messages.len();
            schedule.write(&mut body, self.dialect, request.messages, clock.at(stamp));
            self.publish(&body, messages)?;
            published += messages as u64;
            number += share.of;
        }
        Ok(published)
    }
}

/// Waits until `moment`. Returns false if the channel `stop` is closed before that time.
fn waited_until(moment: Instant, stop: &Receiver<()>) -> bool {
    let left = moment.saturating_duration_since(Instant::now());
    matches!(stop.recv_timeout(left), Err(RecvTimeoutError::Timeout))
}

fn is_over(schedule: &Schedule, start: Instant, stop: &Receiver<()>) -> bool {
    start.elapsed() >= schedule.lasts() || !matches!(stop.try_recv(), Err(TryRecvError::Empty))
}

/// Publishes a message for each pair of key and data, as fast as the server accepts them.
pub fn fill(address: SocketAddr, dialect: Dialect, state: &[(String, String)]) -> Result<()> {
    /// The number of messages in a request, if the server accepts several.
    const BATCH: usize = 500;
    let mut publisher = Publisher::connect(address, dialect)?;
    let mut body = String::new();
    for part in state.chunks(if dialect.takes_batches() { BATCH } else { 1 }) {
        body.clear();
        for (key, data) in part {
            message::write(&mut body, dialect, key, data);
            body.push('\n');
        }
        publisher.publish(&body, part.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_early_when_the_channel_is_closed() {
        let (sender, stop) = std::sync::mpsc::channel::<()>();
        assert!(waited_until(Instant::now(), &stop));
        drop(sender);
        assert!(!waited_until(Instant::now() + Duration::from_mins(1), &stop));
    }
}

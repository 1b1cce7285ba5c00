//! As much of server-sent events as it takes to tell a server's messages apart, in chunks or without.

use anyhow::{Result, ensure};
use memchr::memmem;

/// More than any event or chunk head of these measurements has.
const MAX_PARTIAL: usize = 4 * 1024 * 1024;

const EVENT_END: &[u8] = b"\n\n";
const DATA: &[u8] = b"data:";

/// The event stream of one connection.
#[derive(Default)]
pub struct Events {
    chunks: Option<Chunks>,
    /// The start of an event whose end has not come yet.
    partial: Vec<u8>,
}

impl Events {
    pub fn new(chunked: bool) -> Self {
        Self { chunks: chunked.then(Chunks::default), partial: Vec::new() }
    }

    /// Takes in further bytes and passes on the data of each event that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> Result<()> {
        match &mut self.chunks {
            Some(chunks) => chunks.push(bytes, &mut self.partial)?,
            None => self.partial.extend_from_slice(bytes),
        }
        let mut used = 0;
        while let Some(length) = memmem::find(&self.partial[used..], EVENT_END) {
            if let Some(data) = data(&self.partial[used..used + length]) {
                each(data);
            }
            used += length + EVENT_END.len();
        }
        self.partial.drain(..used);
        ensure!(self.partial.len() <= MAX_PARTIAL, "an event is longer than {MAX_PARTIAL} bytes");
        Ok(())
    }
}

/// The data of an event; comments and `retry:` have none. The servers here put it on one line.
fn data(event: &[u8]) -> Option<&[u8]> {
    let data = event.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(DATA))?;
    Some(data.trim_ascii())
}

/// Takes the chunked transfer coding (RFC 9112, section 7.1) off a body.
#[derive(Default)]
struct Chunks {
    /// How much of the current chunk is still to come, with the line end behind it.
    left: usize,
    /// The start of a chunk's head whose end has not come yet.
    head: Vec<u8>,
}

impl Chunks {
    fn push(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<()> {
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.take_head(bytes)?;
                continue;
            }
            let taken = self.left.min(bytes.len());
            // The last two bytes of what is left are the line end behind the chunk.
            let content = taken.min(self.left.saturating_sub(2));
            body.extend_from_slice(&bytes[..content]);
            self.left -= taken;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Reads a chunk's head, or as much as there is of it, and returns what follows.
    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.head.extend_from_slice(bytes);
            ensure!(self.head.len() <= 64, "a chunk's head has no end");
            return Ok(&[]);
        };
        self.head.extend_from_slice(&bytes[..end]);
        let text = String::from_utf8_lossy(&self.head);
        let digits = text.trim().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(digits, 16)?;
        ensure!(size > 0, "the server ended the event stream");
        ensure!(size <= MAX_PARTIAL, "a chunk announces {size} bytes, more than {MAX_PARTIAL}");
        self.left = size + 2;
        self.head.clear();
        Ok(&bytes[end + 1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunked: bool, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let mut events = Events::new(chunked);
        let mut found = Vec::new();
        for part in parts {
            events.push(part, |data| found.push(data.to_vec()))?;
        }
        Ok(found)
    }

    #[test]
    fn events_are_found_wherever_the_reads_and_chunks_cut_them() -> Result<()> {
        let plain = b"retry: 1\nid: 1\ndata: {}\n\n: comment\n\ndata: x\n\n";
        let chunked = b"a\r\nretry: 1\ni\r\n19;x=y\r\nd: 1\ndata: {}\n\n: comment\n\r\nA\r\n\ndata: x\n\n\r\n";
        for cut in 0..plain.len() {
            assert_eq!(events(false, &[&plain[..cut], &plain[cut..]])?, [b"{}".as_slice(), b"x"], "cut at {cut}");
        }
        for cut in 0..chunked.len() {
            assert_eq!(events(true, &[&chunked[..cut], &chunked[cut..]])?, [b"{}".as_slice(), b"x"], "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn the_end_of_a_stream_and_a_broken_chunk_are_errors() {
        assert!(events(true, &[b"0\r\n\r\n"]).is_err());
        assert!(events(true, &[b"xyz\r\n"]).is_err());
        assert!(events(true, &[[b'1'; 100].as_slice()]).is_err());
    }
}

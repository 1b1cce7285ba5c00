//! Splits a server's bytes into WebSocket messages (RFC 6455).
//!
//! This is a load generator, so it does not check whether a server conforms to the protocol.

use anyhow::{Result, bail, ensure};

/// The maximum length of a payload in bytes. The frames of all measurements are shorter.
const MAX_FRAME: usize = 4 * 1024 * 1024;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASK: u8 = 0x80;

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A message or ping from a server.
pub enum Item<'a> {
    Message(&'a [u8]),
    /// A ping. The client must answer it with a pong that has the same payload.
    Ping(&'a [u8]),
}

/// Collects the bytes of one connection and finds the frames in them.
#[derive(Default)]
pub struct Frames {
    /// The beginning of a frame whose end has not arrived yet.
    partial: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes, and calls `each` with every message and ping that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Item)) -> Result<()> {
        if self.partial.is_empty() {
            let used = split(bytes, &mut each)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        self.partial.extend_from_slice(bytes);
        let used = split(&self.partial, &mut each)?;
        self.partial.drain(..used);
        if self.partial.is_empty() {
            // Frees the buffer's memory, because thousands of connections have such a buffer.
            self.partial = Vec::new();
        }
        Ok(())
    }
}

/// Calls `each` with the messages and pings in `bytes`. Returns the total length of all complete frames.
fn split(bytes: &[u8], each: &mut impl FnMut(Item)) -> Result<usize> {
    let mut used = 0;
    while let Some(frame) = Frame::parse(&bytes[used..])? {
        let payload = &bytes[used + frame.head..used + frame.head + frame.payload];
        used += frame.head + frame.payload;
        match frame.opcode {
            TEXT => each(Item::Message(payload)),
            PING => each(Item::Ping(payload)),
            PONG => {}
            CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                bail!("the server closed the WebSocket with the code {code:?}")
            }
            opcode => bail!("unexpected frame with the opcode {opcode:#x}: expected text, ping, pong or close"),
        }
    }
    Ok(used)
}

/// The opcode of a frame and the lengths of its parts in bytes.
struct Frame {
    opcode: u8,
    head: usize,
    payload: usize,
}

impl Frame {
    /// Reads the frame at the start of `bytes`; `None` if the frame is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        ensure!(first & RESERVED_BITS == 0, "a frame has reserved bits: no extension was negotiated");
        ensure!(second & MASK == 0, "a frame is masked: a server must not mask");
        ensure!(first & FIN != 0, "a message is fragmented: expected one frame for each message");
        let (head, payload) = match second {
            126 => match bytes.get(2..4).and_then(|length| length.try_into().ok()) {
                Some(length) => (4, usize::from(u16::from_be_bytes(length))),
                None => return Ok(None),
            },
            127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
                Some(length) => (10, usize::try_from(u64::from_be_bytes(length))?),
                None => return Ok(None),
            },
            short => (2, usize::from(short)),
        };
        ensure!(payload <= MAX_FRAME, "a frame has {payload} bytes: expected at most {MAX_FRAME}");
        let whole = bytes.len() >= head + payload;
        Ok(whole.then_some(Self { opcode: first & OPCODE, head, payload }))
    }
}

/// Builds the pong for a ping. The mask is zero, which servers accept and which leaves the payload unchanged.
pub fn pong(payload: &[u8]) -> Result<Vec<u8>> {
    let length = u8::try_from(payload.len())?;
    Ok([&[FIN | PONG, MASK | length, 0, 0, 0, 0], payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for part in parts {
            frames.push(part, |item| match item {
                Item::Message(payload) => found.push(payload.to_vec()),
                Item::Ping(payload) => found.push([b"ping ", payload].concat()),
            })?;
        }
        Ok(found)
    }

    #[test]
    fn messages_are_found_however_reads_split_them() -> Result<()> {
        let bytes = b"\x81\x02{}\x89\x01p\x8a\x00\x81\x01x";
        let expected: Vec<Vec<u8>> = vec![b"{}".to_vec(), b"ping p".to_vec(), b"x".to_vec()];
        for cut in 0..=bytes.len() {
            assert_eq!(messages(&[&bytes[..cut], &bytes[cut..]])?, expected, "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn both_long_forms_of_the_length_are_read() -> Result<()> {
        let payload = [b'x'; 300];
        assert_eq!(messages(&[b"\x81\x7e\x01\x2c", &payload])?, [payload]);
        assert_eq!(messages(&[b"\x81\x7f\0\0\0\0", b"\0\0\x01\x2c", &payload])?, [payload]);
        Ok(())
    }

    #[test]
    fn unexpected_frames_are_errors() {
        assert!(messages(&[b"\x81\x82\0\0\0\0{}"]).is_err(), "masked");
        assert!(messages(&[b"\xc1\x02{}"]).is_err(), "reserved bit");
        assert!(messages(&[b"\x82\x02{}"]).is_err(), "binary");
        assert!(messages(&[b"\x01\x02{}"]).is_err(), "fragmented");
        assert!(messages(&[b"\x81\x7f\x01\0\0\0\0\0\0\0"]).is_err(), "too long");
        let error = messages(&[b"\x88\x02\x03\xe9"]).expect_err("a close frame");
        assert!(error.to_string().contains("1001"), "{error}");
    }

    #[test]
    fn pong_is_masked_and_repeats_the_payload() -> Result<()> {
        assert_eq!(pong(b"ab")?, b"\x8a\x82\0\0\0\0ab");
        Ok(())
    }
}

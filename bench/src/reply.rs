//! As much of HTTP and of the WebSocket protocol as it takes to tell that a
//! server has accepted an upgrade and sent its first text message.
//!
//! The accept key and the other header fields are not checked: this is a load
//! generator, and a conformance test is a different program.

use anyhow::{Result, bail, ensure};

/// More than any reasonable response head followed by a first message needs.
const MAX_RECEIVED: usize = 64 * 1024;

const HEAD_END: &[u8] = b"\r\n\r\n";

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASK: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What a server has sent so far on one connection.
#[derive(Default)]
pub struct Reply {
    buffer: Vec<u8>,
    received: usize,
    head_is_done: bool,
}

impl Reply {
    /// Takes in further bytes and returns whether a whole text message has
    /// arrived after a head that accepts the upgrade.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool> {
        self.buffer.extend_from_slice(bytes);
        self.received += bytes.len();
        if !self.head_is_done {
            self.head_is_done = self.take_head()?;
        }
        let done = self.head_is_done && self.take_message()?;
        ensure!(done || self.received <= MAX_RECEIVED, "no text message within the first {MAX_RECEIVED} bytes");
        Ok(done)
    }

    /// Names what is being waited for, to complete an error message.
    pub fn awaited(&self) -> &'static str {
        if self.head_is_done { "the first text message" } else { "the response to the upgrade request" }
    }

    /// Removes the response head once it is complete.
    fn take_head(&mut self) -> Result<bool> {
        let mut windows = self.buffer.windows(HEAD_END.len());
        let Some(start) = windows.position(|window| window == HEAD_END) else {
            return Ok(false);
        };
        if !self.buffer.starts_with(b"HTTP/1.1 101 ") {
            let line = self.buffer.split(|&byte| byte == b'\r').next();
            bail!("the upgrade was refused: {}", String::from_utf8_lossy(line.unwrap_or_default()));
        }
        self.buffer.drain(..start + HEAD_END.len());
        Ok(true)
    }

    /// Removes whole frames up to the end of the first text message. Pings and
    /// pongs may precede it; they are skipped, and pings stay unanswered.
    fn take_message(&mut self) -> Result<bool> {
        while let Some(frame) = Frame::parse(&self.buffer)? {
            self.buffer.drain(..frame.size);
            match frame.opcode {
                TEXT | CONTINUATION if frame.is_final => return Ok(true),
                TEXT | CONTINUATION | PING | PONG => {}
                CLOSE => bail!("the server sent a close frame instead of a text message"),
                opcode => bail!("unexpected frame with the opcode {opcode:#x}"),
            }
        }
        Ok(false)
    }
}

/// What matters of a frame: the kind, and how many bytes it takes in total.
struct Frame {
    opcode: u8,
    is_final: bool,
    size: usize,
}

impl Frame {
    /// Reads the frame at the start of `bytes`; `None` if it is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        ensure!(first & RESERVED_BITS == 0, "a frame has reserved bits set, though no extension was agreed on");
        ensure!(second & MASK == 0, "a frame from the server is masked");
        let (length, header) = match second {
            126 => match rest.first_chunk() {
                Some(&bytes) => (u64::from(u16::from_be_bytes(bytes)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(&bytes) => (u64::from_be_bytes(bytes), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        let size = usize::try_from(length)?.saturating_add(header);
        let frame = Self { opcode: first & OPCODE, is_final: first & FIN != 0, size };
        Ok((bytes.len() >= size).then_some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    fn after_head(frames: &[u8]) -> Result<bool> {
        Reply::default().push(&[HEAD, frames].concat())
    }

    #[test]
    fn a_reply_is_complete_with_its_last_byte_however_it_is_split() -> Result<()> {
        let message = [HEAD, b"\x89\x01p\x81\x02{}"].concat();
        let mut reply = Reply::default();
        for (index, byte) in message.iter().enumerate() {
            let done = reply.push(std::slice::from_ref(byte))?;
            assert_eq!(done, index + 1 == message.len(), "byte {index}");
        }
        Ok(())
    }

    #[test]
    fn both_long_forms_of_the_length_are_understood() -> Result<()> {
        let payload = [b'x'; 300];
        assert!(after_head(&[b"\x81\x7e\x01\x2c".as_slice(), &payload].concat())?);
        let long = [b"\x81\x7f\0\0\0\0\0\0\x01\x2c".as_slice(), &payload].concat();
        assert!(after_head(&long)?);
        assert!(!after_head(&long[..long.len() - 1])?);
        Ok(())
    }

    #[test]
    fn a_fragmented_message_is_complete_with_its_final_fragment() -> Result<()> {
        assert!(!after_head(b"\x01\x01a")?);
        assert!(after_head(b"\x01\x01a\x80\x01b")?);
        Ok(())
    }

    #[test]
    fn what_is_not_a_text_message_is_an_error() {
        assert!(after_head(b"\x81\x82\0\0\0\0{}").is_err(), "masked");
        assert!(after_head(b"\xc1\x02{}").is_err(), "reserved bit");
        assert!(after_head(b"\x82\x02{}").is_err(), "binary");
        assert!(after_head(b"\x88\0").is_err(), "close");
        assert!(after_head(&vec![1; MAX_RECEIVED]).is_err(), "endless");
    }

    #[test]
    fn any_other_status_is_an_error_that_quotes_it() {
        let error = Reply::default().push(b"HTTP/1.1 404 Not Found\r\n\r\n").expect_err("the status is not 101");
        assert!(error.to_string().ends_with("HTTP/1.1 404 Not Found"));
    }
}

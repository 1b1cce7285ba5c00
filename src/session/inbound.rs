//! Limits the input from the client: the bytes that the reader takes in one turn, and the fragments of one message.
//!
//! The library `tungstenite` reads until it has a whole message. A client that sends endless fragments would keep the
//! library reading, and the thread busy. [`Pipe`] therefore stops the library after [`TURN_BYTES`], and the reader
//! yields to other tasks.

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::message::{Frames, Opcode};
use crate::outbox::{Outbox, Outgoing};

/// The size of the library's read buffer, in bytes. Clients send little, so it is small; a longer frame needs several
/// reads.
const READ_BUFFER: usize = 512;
/// The maximum number of bytes to read before other tasks run. 4 KiB can contain 682 frames of the minimum size
/// (6 bytes).
const TURN_BYTES: usize = 4 << 10;
/// The maximum number of fragments of one message. The library needs time even for an empty fragment.
pub(super) const MAX_FRAGMENTS: u32 = 1024;

/// A message came in more than [`MAX_FRAGMENTS`] fragments.
#[derive(Debug, Error)]
#[error("a message has more than {MAX_FRAGMENTS} fragments")]
pub(super) struct TooManyFragments;

impl TooManyFragments {
    /// Whether [`Pipe`] failed with `error` because of too many fragments.
    pub(super) fn caused(error: &io::Error) -> bool {
        error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
    }
}

/// The library's state, and the limits on the library's input. The reader creates this value when the client first
/// sends bytes.
pub(super) struct Inbound {
    pub(super) context: WebSocketContext,
    pub(super) feed: InboundBytes,
}

impl Inbound {
    /// `early` are the bytes that came right after the handshake, in the same read.
    pub(super) fn new(early: Bytes, message_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes))
            .max_frame_size(Some(message_bytes));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self { context, feed: InboundBytes { early, turn: TURN_BYTES, fragments: Fragments::default() } }
    }
}

/// The bytes that the WebSocket library (tungstenite) reads from a client. Limits the bytes per turn and the fragments
/// per message.
pub(super) struct InboundBytes {
    /// Bytes that came with the handshake. The library reads these bytes before the bytes of the socket.
    early: Bytes,
    /// The number of bytes that the library may still read in this turn.
    turn: usize,
    fragments: Fragments,
}

impl InboundBytes {
    /// Whether this turn's bytes are used up. The reader then yields before it begins another turn.
    pub(super) fn is_spent(&self) -> bool {
        self.turn == 0
    }

    pub(super) fn begin_turn(&mut self) {
        self.turn = TURN_BYTES;
    }

    fn read(&mut self, socket: &OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_spent() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let wanted = buffer.len().min(self.turn);
        let buffer = &mut buffer[..wanted];
        let read = if self.early.is_empty() {
            socket.try_read(buffer)?
        } else {
            let early = self.early.split_to(wanted.min(self.early.len()));
            buffer[..early.len()].copy_from_slice(&early);
            early.len()
        };
        self.turn -= read;
        self.fragments.pass(&buffer[..read]).map_err(io::Error::other)?;
        Ok(read)
    }
}

/// The library reads and writes this instead of the socket.
pub(super) struct Pipe<'a> {
    pub(super) socket: &'a OwnedReadHalf,
    pub(super) outbox: &'a Outbox,
    pub(super) heard: &'a mut Instant,
    pub(super) feed: &'a mut InboundBytes,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.feed.read(self.socket, buffer)?;
        *self.heard = Instant::now();
        Ok(read)
    }
}

impl Write for Pipe<'_> {
    /// The library writes one whole frame at a time: a pong, or the answer to a close frame.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        let frames = Frames::raw(frame.to_vec());
        if frame.first().is_some_and(|first| first & 0x0f == Opcode::Close as u8) {
            self.outbox.answer_close(frames);
        } else {
            self.outbox.push(Outgoing::Control(Arc::new(frames)));
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts the fragments of each message in the bytes that the library reads. The library limits only the bytes of a
/// message, so it would accept any number of empty fragments.
#[derive(Default)]
struct Fragments {
    /// The first bytes of a frame header, while the rest of the header has not arrived.
    header: Vec<u8>,
    /// The number of bytes of the current frame's payload that have not arrived.
    payload: u64,
    /// The number of frames of the current message so far.
    count: u32,
}

impl Fragments {
    fn pass(&mut self, bytes: &[u8]) -> Result<(), TooManyFragments> {
        if self.header.is_empty() {
            return self.pass_frames(bytes);
        }
        let joined = [&self.header, bytes].concat();
        self.header.clear();
        self.pass_frames(&joined)
    }

    /// Counts the frames in `rest`, whose first byte is inside a payload or begins a header.
    fn pass_frames(&mut self, mut rest: &[u8]) -> Result<(), TooManyFragments> {
        loop {
            let payload = usize::try_from(self.payload).unwrap_or(usize::MAX).min(rest.len());
            self.payload -= payload as u64;
            rest = &rest[payload..];
            let mut cursor = Cursor::new(rest);
            match FrameHeader::parse(&mut cursor) {
                Ok(Some((header, length))) => {
                    self.payload = length;
                    self.count(&header)?;
                    let parsed = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
                    rest = rest.get(parsed..).unwrap_or_default();
                }
                Ok(None) => {
                    self.header.extend_from_slice(rest);
                    return Ok(());
                }
                // The header is invalid. The library fails with the same error when it parses this header.
                Err(_) => return Ok(()),
            }
        }
    }

    fn count(&mut self, header: &FrameHeader) -> Result<(), TooManyFragments> {
        if matches!(header.opcode, OpCode::Control(_)) {
            return Ok(());
        }
        self.count += 1;
        if self.count > MAX_FRAGMENTS {
            return Err(TooManyFragments);
        }
        if header.is_final {
            self.count = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A masked frame with zeros as payload.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(length) {
            Ok(short @ 0..126) => frame.push(0x80 | u8::try_from(short).unwrap()),
            Ok(medium) => {
                frame.push(0xfe);
                frame.extend(medium.to_be_bytes());
            }
            Err(_) => {
                frame.push(0xff);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.resize(frame.len() + length, 0);
        frame
    }

    #[test]
    fn a_message_of_1024_fragments_passes_and_one_of_1025_fails() {
        for (fragments, passes) in [(MAX_FRAGMENTS, true), (MAX_FRAGMENTS + 1, false)] {
            let middle = frame(0x00, 0).repeat(fragments as usize - 2);
            let message = [frame(0x01, 0), middle, frame(0x80, 0)].concat();
            let mut passed = Fragments::default();
            assert_eq!(passed.pass(&message).is_ok(), passes);
            // The limit applies to each message separately.
            assert!(!passes || passed.pass(&message).is_ok());
        }
    }

    #[test]
    fn control_frames_are_not_fragments() {
        let mut passed = Fragments::default();
        passed.pass(&[frame(0x01, 3), frame(0x8a, 0).repeat(5000), frame(0x89, 125)].concat()).unwrap();
        assert_eq!(passed.count, 1);
    }

    #[test]
    fn an_invalid_header_is_left_to_the_library() {
        let mut passed = Fragments::default();
        passed.pass(&frame(0x83, 0).repeat(5000)).unwrap();
        passed.pass(&frame(0x83, 0)).unwrap();
    }

    proptest! {
        #[test]
        fn cuts_do_not_change_the_count(
            lengths in prop::collection::vec(prop_oneof![0..200_usize, 65_530..65_540_usize], 1..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut bytes = Vec::new();
            for (at, length) in lengths.iter().enumerate() {
                bytes.extend(frame(u8::from(at == 0), *length));
                bytes.extend(frame(0x8a, length % 126));
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut passed, mut begin) = (Fragments::default(), 0);
            for end in cuts.into_iter().chain([bytes.len()]) {
                passed.pass(&bytes[begin..end]).unwrap();
                begin = end;
            }
            prop_assert_eq!(passed.count as usize, lengths.len());
            prop_assert_eq!((passed.payload, passed.header.len()), (0, 0));
        }
    }
}

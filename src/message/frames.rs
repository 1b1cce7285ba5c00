//! The bytes of a message, framed for WebSocket and SSE.

use std::io::Write as _;
use std::ops::Range;

use super::position::Position;
use crate::close::Close;

/// The bytes of a message that a client receives, for both transports in one allocation:
/// `[SSE head][WebSocket header][JSON][blank line]`. The WebSocket frame is the WebSocket header and the JSON text. The
/// SSE event is everything except the WebSocket header.
#[derive(Debug)]
pub struct Frames {
    bytes: Box<[u8]>,
    websocket: Range<u32>,
    json_start: u32,
    /// The SSE event, only if the JSON text has raw line breaks: SSE needs a field name on each line.
    multiline_event: Option<Box<[u8]>>,
}

impl Frames {
    /// Makes the frames of a JSON text. With an `id`, the SSE event gets an `id:` line.
    #[must_use]
    pub fn json(json: &[u8], id: Option<Position>) -> Self {
        Self::framed(json, id, None)
    }

    /// Makes the frames of a JSON text. The SSE event tells an `EventSource` to wait `retry_ms` milliseconds before it
    /// reconnects.
    #[must_use]
    pub(crate) fn json_with_retry(json: &[u8], retry_ms: u64) -> Self {
        Self::framed(json, None, Some(retry_ms))
    }

    fn framed(json: &[u8], id: Option<Position>, retry_ms: Option<u64>) -> Self {
        let mut bytes = Vec::with_capacity(json.len() + 80);
        let head = sse_head(&mut bytes, id, retry_ms);
        websocket_header(&mut bytes, Opcode::Text, json.len());
        let json_start = bytes.len();
        bytes.extend_from_slice(json);
        let end = bytes.len();
        bytes.extend_from_slice(b"\n\n");
        let breaks = memchr::memchr2(b'\n', b'\r', json).is_some();
        Self {
            multiline_event: breaks.then(|| multiline_event(&bytes[..head], json)),
            bytes: bytes.into_boxed_slice(),
            websocket: index(head)..index(end),
            json_start: index(json_start),
        }
    }

    /// Makes a WebSocket control frame (RFC 6455, section 5.5). Its SSE event is empty.
    #[must_use]
    pub fn control(opcode: Opcode, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(payload.len() + 2);
        websocket_header(&mut bytes, opcode, payload.len());
        bytes.extend_from_slice(payload);
        Self::raw(bytes)
    }

    /// Makes the close frame that ends a connection for this reason.
    #[must_use]
    pub fn close(close: Close) -> Self {
        let row = close.row();
        let mut payload = row.code.to_be_bytes().to_vec();
        payload.extend_from_slice(row.reason.as_bytes());
        Self::control(Opcode::Close, &payload)
    }

    /// Wraps the bytes of complete WebSocket frames. Their SSE event is empty.
    #[must_use]
    pub fn raw(bytes: Vec<u8>) -> Self {
        let end = index(bytes.len());
        Self { bytes: bytes.into(), websocket: 0..end, json_start: end, multiline_event: None }
    }

    /// The WebSocket frame with its header. Servers do not mask frames, so all clients get the same bytes.
    #[must_use]
    pub fn websocket(&self) -> &[u8] {
        &self.bytes[self.websocket.start as usize..self.websocket.end as usize]
    }

    /// Appends the SSE event with its blank line.
    pub fn write_event(&self, out: &mut Vec<u8>) {
        if let Some(event) = &self.multiline_event {
            out.extend_from_slice(event);
            return;
        }
        out.extend_from_slice(&self.bytes[..self.websocket.start as usize]);
        out.extend_from_slice(&self.bytes[self.json_start as usize..]);
    }

    /// The JSON text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.bytes[self.json_start as usize..self.websocket.end as usize]
    }

    /// The number of bytes that these frames add to an outbox and to the log.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + self.multiline_event.as_ref().map_or(0, |event| event.len())
    }
}

/// Converts an index within a frame to 32 bits. These suffice because `publish-body-bytes` is far below 4 GiB.
pub(super) fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a message is smaller than a publish body, which is bounded far below 4 GiB")
}

/// Writes the head of an SSE event: `retry: …`, `id: …` and the name of the data field. Returns the length of the head.
fn sse_head(out: &mut Vec<u8>, id: Option<Position>, retry_ms: Option<u64>) -> usize {
    if let Some(retry_ms) = retry_ms {
        writeln!(out, "retry: {retry_ms}").expect("writing to memory does not fail");
    }
    if let Some(id) = id {
        writeln!(out, "id: {id}").expect("writing to memory does not fail");
    }
    out.extend_from_slice(b"data: ");
    out.len()
}

/// Makes the SSE event of a JSON text with line breaks: one `data:` line for each line of the text.
///
/// The client joins the lines with line feeds, so the JSON text keeps its meaning. SSE cannot carry carriage returns.
/// JSON allows raw carriage returns only between tokens, and the client receives them as line feeds.
fn multiline_event(head: &[u8], json: &[u8]) -> Box<[u8]> {
    let mut event = head.to_vec();
    let mut previous = 0;
    for &byte in json {
        match byte {
            // The CR before this LF has already ended the line.
            b'\n' if previous == b'\r' => {}
            b'\n' | b'\r' => event.extend_from_slice(b"\ndata: "),
            _ => event.push(byte),
        }
        previous = byte;
    }
    event.extend_from_slice(b"\n\n");
    event.into()
}

/// The frame types that the server sends (RFC 6455, section 11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text = 0x1,
    /// A close frame.
    Close = 0x8,
    /// A ping, which the peer answers with a pong.
    Ping = 0x9,
}

/// Writes the header of a final, unmasked frame (RFC 6455, section 5.2).
fn websocket_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    const FINAL: u8 = 0x80;
    out.push(FINAL | opcode as u8);
    match length {
        0..=125 => out.push(u8::try_from(length).expect("at most 125")),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(length).expect("at most 65,535").to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_grows_at_payloads_of_126_and_65536_bytes() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = Frames::json(&vec![b'1'; length], None);
            assert_eq!(frame.websocket().len() - length, header, "{length}");
        }
    }

    #[test]
    fn close_frame_begins_with_its_code() {
        for close in Close::ALL {
            assert_eq!(Frames::close(close).websocket()[2..4], close.row().code.to_be_bytes());
        }
    }
}

//! RFC 6455 from the server's side: fragments, control frames, the close handshake, and protocol errors.

use crate::harness::raw::{Frame, HANDSHAKE, Raw, frame};
use crate::harness::{App, TOKEN};

/// The first byte of a frame that contains a whole message, or of a control frame.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The first bytes of the frames of a fragmented text message: of the first frame, a middle frame, and the last frame.
const TEXT_BEGINS: u8 = 0x01;
const CONTINUES: u8 = 0x00;
const ENDS: u8 = 0x80;

/// A `ping` message of exactly this length, in bytes. The server answers it.
fn request(length: usize) -> Vec<u8> {
    let text = br#"{"type":"ping""#;
    [text, vec![b' '; length - text.len() - 1].as_slice(), b"}"].concat()
}

/// Sends these bytes over a new connection, and returns the close code.
async fn closed_with(app: &App, bytes: &[u8]) -> u16 {
    let mut raw = Raw::websocket(app.address).await;
    raw.send(bytes).await;
    raw.closed().await
}

/// Expects the answer to a message from [`request`].
async fn answered(raw: &mut Raw) {
    let answer = raw.frame().await.expect("an answer");
    assert!(answer.opcode == 0x1 && answer.payload.starts_with(br#"{"type":"pong""#), "{answer:?}");
}

fn pong(payload: &[u8]) -> Frame {
    Frame { opcode: 0xa, payload: payload.to_vec() }
}

#[tokio::test]
async fn control_frames_may_come_between_fragments_of_a_message() {
    let app = App::start().await;
    let mut raw = Raw::websocket(app.address).await;
    raw.send(&frame(TEXT_BEGINS, br#"{"type":"#)).await;
    raw.send(&frame(PING, b"between")).await;
    assert_eq!(raw.frame().await.unwrap(), pong(b"between"));
    raw.send(&frame(PONG, b"unasked")).await;
    raw.send(&frame(CONTINUES, b"")).await;
    raw.send(&frame(CONTINUES, br#""pi"#)).await;
    raw.send(&frame(ENDS, br#"ng"}"#)).await;
    answered(&mut raw).await;
    raw.send(&[frame(TEXT_BEGINS, b""), frame(ENDS, &request(20))].concat()).await;
    answered(&mut raw).await;
}

#[tokio::test]
async fn close_between_fragments_ends_the_connection() {
    let app = App::start().await;
    let bytes = [frame(TEXT_BEGINS, br#"{"type":"#), frame(CLOSE, &1000_u16.to_be_bytes())].concat();
    assert_eq!(closed_with(&app, &bytes).await, 1000);
}

#[tokio::test]
async fn each_ping_is_answered_with_the_same_payload() {
    let app = App::start().await;
    let mut raw = Raw::websocket(app.address).await;
    let longest: Vec<u8> = (131..=255).collect();
    for payload in [&b""[..], b"a", &[0], &longest] {
        raw.send(&frame(PING, payload)).await;
        assert_eq!(raw.frame().await.unwrap(), pong(payload));
    }
    let burst: Vec<u8> = (0..200).flat_map(|number| frame(PING, &[number])).collect();
    raw.send(&burst).await;
    for number in 0..200 {
        assert_eq!(raw.frame().await.unwrap(), pong(&[number]));
    }
}

#[tokio::test]
async fn control_frame_that_is_too_long_or_fragmented_gets_1002() {
    let app = App::start().await;
    for opcode in [CLOSE, PING, PONG] {
        assert_eq!(closed_with(&app, &frame(opcode, &[b'1'; 126])).await, 1002, "{opcode:x}");
        assert_eq!(closed_with(&app, &frame(opcode & 0x0f, b"")).await, 1002, "{opcode:x}");
    }
}

#[tokio::test]
async fn frame_without_a_mask_gets_1002() {
    let app = App::start().await;
    for unmasked in [&[TEXT, 2, b'{', b'}'][..], &[TEXT, 0], &[PING, 0], &[CLOSE, 2, 0x03, 0xe8]] {
        assert_eq!(closed_with(&app, unmasked).await, 1002, "{unmasked:?}");
    }
}

#[tokio::test]
async fn reserved_bits_and_opcodes_get_1002() {
    let app = App::start().await;
    for bit in [0x40, 0x20, 0x10] {
        for first in [TEXT, BINARY, PING, CLOSE] {
            assert_eq!(closed_with(&app, &frame(first | bit, b"")).await, 1002, "{first:x} with {bit:x}");
        }
    }
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        assert_eq!(closed_with(&app, &frame(0x80 | opcode, b"")).await, 1002, "{opcode:x}");
    }
}

#[tokio::test]
async fn fragments_out_of_order_get_1002() {
    let app = App::start().await;
    let begun = frame(TEXT_BEGINS, b"{");
    let ended = frame(TEXT, &request(20));
    let invalid = [
        ("a continuation without a start", frame(CONTINUES, b"a")),
        ("an end without a start", frame(ENDS, b"a")),
        ("a text inside a message", [begun.clone(), frame(TEXT, b"{}")].concat()),
        ("a start inside a message", [begun.clone(), frame(TEXT_BEGINS, b"{}")].concat()),
        ("a binary message inside a message", [begun, frame(BINARY, b"{}")].concat()),
    ];
    for (what, bytes) in invalid {
        assert_eq!(closed_with(&app, &bytes).await, 1002, "{what}");
    }
    let mut raw = Raw::websocket(app.address).await;
    raw.send(&[ended, frame(ENDS, b"a")].concat()).await;
    answered(&mut raw).await;
    assert_eq!(raw.closed().await, 1002, "a continuation after a whole message");
}

#[tokio::test]
async fn text_that_is_not_utf_8_gets_1007() {
    let app = App::start().await;
    let wrong: [&[u8]; 6] =
        [b"\xff", b"{\"a\":\"\xc3(\"}", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe2\x82"];
    for text in wrong {
        assert_eq!(closed_with(&app, &frame(TEXT, text)).await, 1007, "{text:?}");
        for at in 0..=text.len() {
            let split = [frame(TEXT_BEGINS, &text[..at]), frame(ENDS, &text[at..])].concat();
            assert_eq!(closed_with(&app, &split).await, 1007, "{text:?} split at {at}");
        }
    }
}

#[tokio::test]
async fn fragments_may_split_a_character_and_binary_is_not_checked() {
    let app = App::start().await;
    let mut raw = Raw::websocket(app.address).await;
    let text = r#"{"type":"ping","é":"€😀"}"#.as_bytes();
    for at in 0..=text.len() {
        raw.send(&[frame(TEXT_BEGINS, &text[..at]), frame(ENDS, &text[at..])].concat()).await;
        answered(&mut raw).await;
    }
    let each_byte: Vec<u8> = text.iter().flat_map(|byte| frame(CONTINUES, &[*byte])).collect();
    raw.send(&[frame(TEXT_BEGINS, b""), each_byte, frame(ENDS, b"")].concat()).await;
    answered(&mut raw).await;
    raw.send(&frame(BINARY, b"\xff\xfe\xc3(")).await;
    raw.turn().await;
}

#[tokio::test]
async fn close_code_of_the_client_is_echoed() {
    let app = App::start().await;
    for code in [1000_u16, 1001, 1003, 1011, 3000, 3999, 4000, 4999] {
        assert_eq!(closed_with(&app, &frame(CLOSE, &code.to_be_bytes())).await, code);
        let reasoned = [&code.to_be_bytes()[..], "auf Wiedersehen, schönes Spiel".as_bytes()].concat();
        assert_eq!(closed_with(&app, &frame(CLOSE, &reasoned)).await, code, "with a reason");
    }
}

#[tokio::test]
async fn close_without_a_code_is_answered_without_a_code() {
    let app = App::start().await;
    let mut raw = Raw::websocket(app.address).await;
    raw.send(&frame(CLOSE, b"")).await;
    assert_eq!(raw.frame().await.unwrap(), Frame { opcode: 0x8, payload: Vec::new() });
    assert!(raw.rest().await.is_empty());
}

#[tokio::test]
async fn invalid_close_code_gets_1002_and_invalid_reason_1007() {
    let app = App::start().await;
    assert_eq!(closed_with(&app, &frame(CLOSE, &[3])).await, 1002, "half a code");
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535] {
        assert_eq!(closed_with(&app, &frame(CLOSE, &code.to_be_bytes())).await, 1002, "{code}");
    }
    for reason in [&b"\x03\xe8\xff"[..], b"\x03\xe8cut \xe2\x82"] {
        assert_eq!(closed_with(&app, &frame(CLOSE, reason)).await, 1007, "{reason:?}");
    }
}

#[tokio::test]
async fn frames_after_the_close_are_ignored() {
    let app = App::start().await;
    let bytes = [frame(CLOSE, &1000_u16.to_be_bytes()), frame(TEXT, &request(20)), frame(PING, b"")].concat();
    assert_eq!(closed_with(&app, &bytes).await, 1000);
    let bytes = [frame(0xc1, b""), frame(TEXT, &request(20)), frame(CLOSE, &1000_u16.to_be_bytes())].concat();
    assert_eq!(closed_with(&app, &bytes).await, 1002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sends_nothing_after_the_close_answer() {
    let app = App::start().await;
    let (http, url) = (reqwest::Client::new(), app.url("/api/publish"));
    let publishing = tokio::spawn(async move {
        for number in 0_u64.. {
            let body = format!(r#"{{"topic":"odds_updates","key":"8301","data":{number}}}"#);
            let request = http.post(&url).bearer_auth(TOKEN).header("content-type", "application/json").body(body);
            assert_eq!(request.send().await.expect("the server answers").status(), 200);
        }
    });
    for attempt in 0..100 {
        let mut raw = Raw::websocket(app.address).await;
        raw.send(&frame(CLOSE, &1000_u16.to_be_bytes())).await;
        while raw.frame().await.expect("the answer").opcode != 0x8 {}
        let rest = raw.rest().await;
        assert!(rest.is_empty(), "attempt {attempt}: {}", String::from_utf8_lossy(&rest));
    }
    publishing.abort();
}

#[tokio::test]
async fn message_of_up_to_client_message_bytes_is_accepted() {
    const LIMIT: usize = 3000;
    let app = App::with(|config| config.client_message_bytes = LIMIT).await;
    let fragments = |message: &[u8], at: usize| {
        let (first, second) = message.split_at(at);
        [frame(TEXT_BEGINS, first), frame(CONTINUES, b""), frame(ENDS, second)].concat()
    };
    let mut raw = Raw::websocket(app.address).await;
    let longest = request(LIMIT);
    for bytes in [frame(TEXT, &longest), fragments(&longest, 1), fragments(&longest, LIMIT)] {
        raw.send(&bytes).await;
        answered(&mut raw).await;
    }
    let longer = request(LIMIT + 1);
    let split = [1, LIMIT / 2, LIMIT].map(|at| fragments(&longer, at));
    for bytes in split.into_iter().chain([frame(TEXT, &longer), frame(BINARY, &longer)]) {
        assert_eq!(closed_with(&app, &bytes).await, 1009);
    }
    let endless = frame(CONTINUES, b"1234").repeat(LIMIT / 4 + 1);
    assert_eq!(closed_with(&app, &[frame(TEXT_BEGINS, b""), endless].concat()).await, 1009, "four bytes at a time");
}

#[tokio::test]
async fn message_of_1025_fragments_gets_1008() {
    let app = App::start().await;
    let text = request(1024);
    let fragments = |ends: &[u8]| {
        let middle = text[1..].iter().flat_map(|byte| frame(CONTINUES, &[*byte]));
        frame(TEXT_BEGINS, &text[..1]).into_iter().chain(middle).chain(ends.iter().copied()).collect::<Vec<u8>>()
    };
    let mut raw = Raw::websocket(app.address).await;
    // Set the bit FIN in the last fragment, so that the message ends after 1,024 fragments.
    let mut most = fragments(b"");
    let last = most.len() - 7;
    most[last] = ENDS;
    for _ in 0..2 {
        raw.send(&most).await;
        answered(&mut raw).await;
    }
    assert_eq!(closed_with(&app, &fragments(&frame(ENDS, b""))).await, 1008);
    assert_eq!(closed_with(&app, &fragments(&frame(CONTINUES, b""))).await, 1008);
}

#[tokio::test]
async fn announced_length_over_the_limit_is_refused_at_once() {
    let app = App::start().await;
    for length in [16_385_u64, 1 << 32, 1 << 62] {
        let announcement = [&[TEXT, 0x80 | 127][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
        assert_eq!(closed_with(&app, &announcement).await, 1009, "{length}");
    }
}

#[tokio::test]
async fn every_encoding_of_a_length_is_read() {
    let app = App::with(|config| config.client_message_bytes = 70_000).await;
    let mut raw = Raw::websocket(app.address).await;
    for length in [15, 125, 126, 127, 128, 511, 512, 513, 65_535, 65_536, 70_000] {
        raw.send(&frame(TEXT, &request(length))).await;
        answered(&mut raw).await;
    }
}

#[tokio::test]
async fn close_arrives_without_a_reset_while_the_client_still_sends() {
    let app = App::start().await;
    let mut raw = Raw::websocket(app.address).await;
    let mut other = Raw::websocket(app.address).await;
    let too_long = frame(TEXT, &request(1 << 20));
    let mut chunks = too_long.chunks(64 << 10);
    raw.send(chunks.next().unwrap()).await;
    assert_eq!(raw.closed().await, 1009);
    for chunk in chunks {
        // If the server had closed the socket, the previous chunk would have caused a reset, and this send would fail.
        raw.send(chunk).await;
        other.turn().await;
    }
    app.connections(1).await;
}

#[tokio::test]
async fn frames_may_arrive_byte_by_byte() {
    let app = App::start().await;
    let mut other = Raw::websocket(app.address).await;
    let mut raw = Raw::websocket(app.address).await;
    raw.socket.set_nodelay(true).unwrap();
    let (short, long) = (frame(TEXT, &request(20)), frame(TEXT, &request(200)));
    for byte in [frame(PING, b"cut"), short, long[..20].to_vec()].concat() {
        raw.send(&[byte]).await;
        // Wait until the server has read this byte.
        other.turn().await;
    }
    raw.send(&long[20..]).await;
    assert_eq!(raw.frame().await.unwrap(), pong(b"cut"));
    answered(&mut raw).await;
    answered(&mut raw).await;
    raw.send(&frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(raw.closed().await, 1000);
}

#[tokio::test]
async fn several_frames_may_arrive_together() {
    let app = App::start().await;
    let frames = [frame(TEXT, &request(20)), frame(PING, b"1"), frame(TEXT, &request(600)), frame(PING, b"2")].concat();
    let mut other = Raw::websocket(app.address).await;
    for cut in (0..frames.len()).step_by(7) {
        let mut raw = Raw::connect(app.address).await;
        raw.socket.set_nodelay(true).unwrap();
        raw.send(HANDSHAKE.as_bytes()).await;
        raw.accepted().await;
        raw.send(&frames[..cut]).await;
        other.turn().await;
        raw.send(&frames[cut..]).await;
        answered(&mut raw).await;
        assert_eq!(raw.frame().await.unwrap(), pong(b"1"), "cut at {cut}");
        answered(&mut raw).await;
        assert_eq!(raw.frame().await.unwrap(), pong(b"2"), "cut at {cut}");
    }
}

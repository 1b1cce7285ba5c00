//! A server that has run out of file descriptors. It waits for a free one without a busy loop, and logs one warning.
//! It serves the connections that it has, and accepts others when a descriptor is free.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;

use crate::harness::process::{Process, TOKEN};
use crate::harness::raw::{HANDSHAKE, Raw, frame};
use crate::harness::{within, ws};

/// The maximum number of files that the server may open. It needs about a dozen without connections.
const FILES: usize = 64;
/// The maximum number of attempts to accept a connection, in a second, after a failed attempt.
const RETRIES_PER_SECOND: u64 = 10;

/// A server whose file descriptors are all in use, and the connections that it accepted before.
struct Exhausted {
    process: Process,
    honest: ws::Client,
    websockets: Vec<Raw>,
    /// Connections that send no request. The server has accepted some of them, and has not accepted the others yet.
    silent: Vec<Raw>,
    publisher: Raw,
    operator: Raw,
    published: u64,
}

impl Exhausted {
    /// Starts a server, the honest client, this many further WebSockets, and silent connections until no descriptor is
    /// free.
    async fn start(websockets: usize, environment: &[(&str, &str)]) -> Self {
        // Keep the silent connections open during the whole test.
        let environment = [&[("ODDSWIRE_HEADER_TIMEOUT", "10m")], environment].concat();
        let process = Process::with_files(FILES, &environment).await;
        let honest = ws::Client::connect(process.address, "").await;
        let (publisher, operator) = (Raw::connect(process.address).await, Raw::connect(process.admin).await);
        let mut exhausted =
            Self { process, honest, websockets: Vec::new(), silent: Vec::new(), publisher, operator, published: 0 };
        exhausted.publish().await;
        assert_eq!(exhausted.errors().await, 0);
        for _ in 0..websockets {
            exhausted.websockets.push(Raw::websocket(exhausted.process.address).await);
        }
        for _ in 0..FILES {
            exhausted.silent.push(Raw::connect(exhausted.process.address).await);
        }
        let failed = exhausted.process.event("server.accept_failed").await;
        assert_eq!(failed["level"], "WARNING");
        assert!(failed["error"].as_str().unwrap().contains("open files"), "{failed}");
        exhausted
    }

    /// Publishes a message that the honest client receives.
    async fn publish(&mut self) {
        self.published += 1;
        let body = format!(r#"{{"topic":"odds_updates","data":{}}}"#, self.published);
        let head = format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.publisher.send(format!("{head}{body}").as_bytes()).await;
        assert_eq!(self.publisher.response().await.status, 200);
        assert_eq!(self.honest.expect("odds_updates").await["data"], self.published);
    }

    /// The number of failed attempts to accept a connection, from the metrics.
    async fn errors(&mut self) -> u64 {
        self.operator.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let head = self.operator.head().await.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut text = vec![0; length.parse().unwrap()];
        within(self.operator.socket.read_exact(&mut text)).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix("oddswire_accept_errors_total "));
        value.expect("the counter").parse().unwrap()
    }

    /// Waits for 20 more attempts to accept a connection. Checks that they keep the retry interval and use little
    /// processor time.
    async fn waits_without_spinning(&mut self) {
        const ATTEMPTS: u64 = 20;
        // Start the clock before the first look at the counter. A busy machine can then make the measured time longer,
        // never shorter.
        let (began, used) = (Instant::now(), self.process.processor_time());
        let before = self.errors().await;
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        let attempts = loop {
            looks.tick().await;
            let attempts = self.errors().await - before;
            if attempts >= ATTEMPTS {
                break attempts;
            }
        };
        let (took, used) = (began.elapsed(), self.process.processor_time().saturating_sub(used));
        // The first attempt may come at once, since the test does not know the time of the attempt before it. All later
        // attempts must keep the interval.
        assert!(took >= Duration::from_secs(attempts - 1) / u32::try_from(RETRIES_PER_SECOND).unwrap(), "{took:?}");
        assert!(used < took / 2, "{used:?} of processor time in {took:?}");
    }
}

#[tokio::test]
async fn accepting_resumes_when_a_file_descriptor_is_free() {
    let mut exhausted = Exhausted::start(0, &[]).await;
    let mut late = Raw::connect(exhausted.process.address).await;
    late.send(HANDSHAKE.as_bytes()).await;
    exhausted.waits_without_spinning().await;
    for _ in 0..10 {
        exhausted.publish().await;
    }
    let errors = exhausted.errors().await;

    exhausted.silent.clear();
    late.accepted().await;
    exhausted.publish().await;
    assert_eq!(late.frame().await.expect("the message").opcode, 0x1);
    let recovered = exhausted.process.event("server.accept_recovered").await;
    assert!(recovered["errors"].as_u64().unwrap() >= errors, "{recovered}");
    assert!(recovered["duration"].as_f64().unwrap() > 1.0, "{recovered}");
    assert_eq!(exhausted.process.logged("server.accept_failed"), 1, "one line for all failures");
    ws::Client::connect(exhausted.process.address, "").await.close().await;
}

#[tokio::test]
async fn drain_without_file_descriptors_does_not_busy_loop() {
    let long = [("ODDSWIRE_DRAIN_SPREAD", "30m"), ("ODDSWIRE_DRAIN_TIMEOUT", "1h")];
    // The drain ends the silent connections, and waiting connections take their descriptors. The WebSockets stay.
    let mut exhausted = Exhausted::start(FILES / 2, &long).await;
    exhausted.process.signal("TERM");
    exhausted.process.event("server.draining").await;
    let mut stays = exhausted.websockets.pop().expect("enough WebSockets are connected");
    let notice = stays.frame().await.expect("the notice").payload;
    if String::from_utf8(notice).unwrap().contains(r#""after_ms":0}"#) {
        stays = exhausted.websockets.pop().expect("enough WebSockets are connected");
    }
    let (began, used) = (Instant::now(), exhausted.process.processor_time());
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..20 {
        looks.tick().await;
        stays.send(&frame(0x89, b"")).await;
        while stays.frame().await.expect("the connection stays").opcode != 0xa {}
    }
    let (took, used) = (began.elapsed(), exhausted.process.processor_time().saturating_sub(used));
    assert!(used < took / 2, "{used:?} of processor time in {took:?}");
    assert_eq!(exhausted.process.logged("server.accept_recovered"), 0, "descriptors are still missing");
}

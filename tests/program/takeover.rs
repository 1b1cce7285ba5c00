//! A server drains while publishers publish, and 5,000 clients move to its successor.
//!
//! The sequence of the memory engine ends with its process. These tests check what the server still guarantees:
//!
//! - Each client receives every message from its acknowledgement to its close, without a gap. That includes every
//!   message that the server confirmed to its publisher before the client's close was due.
//! - The closes are spread evenly and happen in order. So a client that is closed later never has fewer messages.
//! - The server answers publishes with 200 until it stops listening.
//! - The next server notices that a position is from another sequence, tells the client so, and sends its own state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oddswire::message::Position;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::process::{Process, TOKEN};
use crate::harness::wire::Wire;
use crate::harness::{PATIENCE, allow_files, eventually, sse, within};

const SOCKETS: usize = 5_000;
const STREAMS: usize = 100;
const SPREAD: Duration = Duration::from_secs(5);
/// The maximum number of connections that the test opens at the same time.
const OPENING: usize = 200;
/// The publishers watch one client in every `LOOKED_AT`.
const LOOKED_AT: usize = 50;
const PUBLISHERS: usize = 3;
/// The number of messages in a publish.
const BATCH: usize = 5;

fn position(value: &Value) -> Position {
    value.as_str().expect("a position").parse().expect("a position")
}

/// The messages of a server by their offsets. The server encodes a message once, so every client gets the same bytes.
/// Only the first client's copy is parsed, and the copies of all other clients are compared with it.
#[derive(Default)]
struct Tape(Mutex<BTreeMap<u64, Bytes>>);

impl Tape {
    /// Whether the payload is the message with this offset; `false` if the payload is not a published message.
    fn is(&self, offset: u64, payload: &Bytes) -> bool {
        let mut tape = self.0.lock().unwrap();
        if let Some(known) = tape.get(&offset) {
            return known == payload;
        }
        let message: Value = serde_json::from_slice(payload).expect("the server sends JSON");
        let is_message = message["id"].is_string();
        if is_message {
            assert_eq!(position(&message["id"]).offset, offset, "no gap and no duplicate: {message}");
            tape.insert(offset, payload.clone());
        }
        is_message
    }
}

/// The result of a client that the server has closed: first offset, last offset, and the announced delay of the close.
#[derive(Debug, Clone, Copy)]
struct Left {
    acknowledged: u64,
    last: Position,
    after_ms: u64,
}

/// The last offsets of the clients that the publishers watch. Publishers wait for these clients, so that no client
/// falls behind. Other tests cover clients that fall behind.
struct Audience(Vec<AtomicU64>);

impl Audience {
    fn note(&self, client: usize, offset: u64) {
        if client.is_multiple_of(LOOKED_AT) {
            self.0[client / LOOKED_AT].store(offset, Ordering::Relaxed);
        }
    }

    async fn reaches(&self, offset: u64) {
        let reached = || self.0.iter().all(|last| last.load(Ordering::Relaxed) >= offset);
        eventually("the watched clients have it or are closed", reached).await;
    }
}

/// The clients of the first server, the server's messages, and the answers to publishes.
struct Crowd {
    address: SocketAddr,
    tape: Tape,
    audience: Audience,
    /// The time and the offset of each answer to a publish.
    answered: Mutex<Vec<(Instant, u64)>>,
}

impl Crowd {
    fn of(process: &Process) -> Arc<Self> {
        let audience = Audience((0..SOCKETS / LOOKED_AT).map(|_| AtomicU64::new(0)).collect());
        Arc::new(Self { address: process.address, tape: Tape::default(), audience, answered: Mutex::default() })
    }

    /// Listens until the server closes the connection.
    async fn listen(self: Arc<Self>, client: usize, mut wire: Wire, acknowledged: Position) -> Left {
        let (mut last, mut after_ms) = (acknowledged, None);
        loop {
            let (first, payload) = wire.frame().await;
            match first {
                0x81 if self.tape.is(last.offset + 1, &payload) => last.offset += 1,
                0x81 => {
                    let notice: Value = serde_json::from_slice(&payload).expect("the server sends JSON");
                    assert_eq!((&notice["type"], after_ms), (&json!("reconnect"), None), "{notice}");
                    after_ms = notice["data"]["after_ms"].as_u64();
                }
                0x88 => {
                    assert_eq!(payload[..2], 1001_u16.to_be_bytes());
                    break;
                }
                other => panic!("an unexpected frame {other:#x}"),
            }
            self.audience.note(client, last.offset);
        }
        self.audience.note(client, u64::MAX);
        Left { acknowledged: acknowledged.offset, last, after_ms: after_ms.expect("the close was announced") }
    }

    /// The same as `listen`, but over SSE.
    async fn listen_to_stream(self: Arc<Self>, mut events: sse::Client) -> Left {
        let mut last = position(&events.ack["data"]["position"]);
        let (acknowledged, mut after_ms) = (last.offset, None);
        while let Some(event) = events.event().await {
            if self.tape.is(last.offset + 1, &event.data.clone().into()) {
                last.offset += 1;
                assert_eq!(events.last_id, last.to_string());
                continue;
            }
            let notice: Value = serde_json::from_str(&event.data).expect("the server sends JSON");
            assert_eq!((&notice["type"], after_ms), (&json!("reconnect"), None), "{notice}");
            after_ms = notice["data"]["after_ms"].as_u64();
        }
        Left { acknowledged, last, after_ms: after_ms.expect("the close was announced") }
    }

    /// Publishes batches until the server no longer listens. Before each batch, waits until the watched clients have
    /// the previous batch.
    async fn publish(self: Arc<Self>, publisher: usize) {
        let client = reqwest::Client::new();
        for round in 0.. {
            let mut batch: Vec<Value> = (1..BATCH)
                .map(|at| {
                    let key = format!("{publisher}/1x2/{at}");
                    json!({"topic": "odds_updates", "key": key, "type": "odds_update", "data": [round, at]})
                })
                .collect();
            batch.push(json!({"topic": "scrape_progress", "data": [publisher, round]}));
            let request = client
                .post(format!("http://{}/api/publish", self.address))
                .bearer_auth(TOKEN)
                .header("content-type", "application/json")
                .header("idempotency-key", format!("{publisher}-{round}"))
                .timeout(PATIENCE)
                .body(json!(batch).to_string());
            let response = loop {
                match request.try_clone().expect("the body can be cloned").send().await {
                    Ok(response) => break response,
                    Err(error) if error.is_connect() => return,
                    // The drain has ended a keep-alive connection, so send the request again.
                    Err(_) => {}
                }
            };
            assert_eq!(response.status(), 200);
            let answer: Value = serde_json::from_str(&response.text().await.expect("the answer is complete")).unwrap();
            assert_eq!(answer["accepted"], BATCH);
            let offset = position(&answer["position"]).offset;
            self.answered.lock().unwrap().push((Instant::now(), offset));
            self.audience.reaches(offset).await;
        }
    }

    /// The highest offset that the server had confirmed to a publisher before this moment.
    fn answered_before(&self, moment: Instant) -> u64 {
        let answered = self.answered.lock().unwrap();
        answered.iter().filter(|(at, _)| *at < moment).map(|(_, offset)| *offset).max().unwrap_or(0)
    }
}

/// Connects all clients and starts their tasks.
async fn connect_all(crowd: &Arc<Crowd>) -> JoinSet<Left> {
    let (mut opening, opens) = (JoinSet::new(), Arc::new(Semaphore::new(OPENING)));
    let mut listening = JoinSet::new();
    for client in 0..SOCKETS {
        let (address, opens) = (crowd.address, Arc::clone(&opens));
        opening.spawn(async move {
            let _turn = opens.acquire().await;
            let mut wire = Wire::connect(address, "").await;
            let acknowledged = position(&wire.expect("connection_ack").await["data"]["position"]);
            (client, wire, acknowledged)
        });
    }
    for _ in 0..STREAMS {
        let socket = TcpStream::connect(crowd.address).await.expect("the server accepts");
        listening.spawn(Arc::clone(crowd).listen_to_stream(sse::Client::over(socket, "").await));
    }
    while let Some(opened) = within(opening.join_next()).await {
        let (client, wire, acknowledged) = opened.expect("the client connects");
        listening.spawn(Arc::clone(crowd).listen(client, wire, acknowledged));
    }
    listening
}

/// Checks that the announced delays are spread evenly, to the millisecond.
fn check_even_spread(left: &[Left]) {
    let count = (SOCKETS + STREAMS) as u64;
    let spread = u64::try_from(SPREAD.as_millis()).unwrap();
    let told: Vec<u64> = left.iter().map(|left| left.after_ms).collect();
    assert_eq!(told, (0..count).map(|at| at * spread / count).collect::<Vec<_>>());
}

/// The messages of the catch-up from the second server.
#[derive(Debug, PartialEq)]
struct Resumed {
    told: Value,
    messages: Vec<Bytes>,
    position: Value,
}

async fn resume(address: SocketAddr, since: Position) -> (Wire, Resumed) {
    let mut wire = Wire::connect(address, &format!("since={since}")).await;
    wire.expect("connection_ack").await;
    let told = wire.expect("catch_up").await["data"]["topics"].clone();
    let mut messages = Vec::new();
    loop {
        let (first, payload) = wire.frame().await;
        assert_eq!(first, 0x81, "the frame is a text message");
        if payload.starts_with(br#"{"type":"caught_up""#) {
            let caught_up: Value = serde_json::from_slice(&payload).unwrap();
            return (wire, Resumed { told, messages, position: caught_up["data"]["position"].clone() });
        }
        messages.push(payload);
    }
}

async fn resume_stream(address: SocketAddr, since: Position) -> Resumed {
    let socket = TcpStream::connect(address).await.expect("the server accepts");
    let mut events = sse::Client::over(socket, &format!("since={since}")).await;
    let told = events.expect("catch_up").await["data"]["topics"].clone();
    let mut messages = Vec::new();
    loop {
        let text = events.text().await;
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == "caught_up" {
            return Resumed { told, messages, position: message["data"]["position"].clone() };
        }
        messages.push(text.into());
    }
}

/// Connects all clients to the second server with their last positions. Checks that all get the same catch-up, and
/// returns it.
async fn reconnect_all(address: SocketAddr, left: &[Left]) -> (Vec<Wire>, Resumed) {
    let (mut returning, opens) = (JoinSet::new(), Arc::new(Semaphore::new(OPENING)));
    for Left { last, .. } in left.iter().copied().take(SOCKETS) {
        let opens = Arc::clone(&opens);
        returning.spawn(async move {
            let _turn = opens.acquire().await;
            resume(address, last).await
        });
    }
    let mut streams = JoinSet::new();
    for Left { last, .. } in left.iter().copied().skip(SOCKETS) {
        streams.spawn(resume_stream(address, last));
    }
    let (first, reference) = within(returning.join_next()).await.expect("a client").expect("the client resumes");
    let mut wires = vec![first];
    while let Some(returned) = within(returning.join_next()).await {
        let (wire, resumed) = returned.expect("the client resumes");
        assert!(resumed == reference, "{resumed:?} instead of {reference:?}");
        wires.push(wire);
    }
    while let Some(returned) = within(streams.join_next()).await {
        let resumed = returned.expect("the client resumes");
        assert!(resumed == reference, "{resumed:?} instead of {reference:?}");
    }
    (wires, reference)
}

/// The state that results from these messages.
fn state_of(messages: &[Bytes]) -> BTreeMap<String, Value> {
    let messages = messages.iter().map(|message| serde_json::from_slice::<Value>(message).unwrap());
    let keyed = messages.filter_map(|message| Some((message["key"].as_str()?.to_owned(), message["data"].clone())));
    keyed.collect()
}

async fn serve() -> Process {
    let spread = format!("{}ms", SPREAD.as_millis());
    let quiet = [("ODDSWIRE_PING_INTERVAL", "30m"), ("ODDSWIRE_IDLE_TIMEOUT", "1h")];
    let drain = [("ODDSWIRE_DRAIN_SPREAD", spread.as_str()), ("ODDSWIRE_DRAIN_TIMEOUT", "1m")];
    Process::serve(&[&quiet[..], &drain].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_clients_have_every_message_and_get_the_new_state() {
    allow_files(12_000);
    let mut first = serve().await;
    let crowd = Crowd::of(&first);
    let listening = connect_all(&crowd).await;
    let gone = r#"{"topic":"odds_updates","key":"gone","data":"with the first server"}"#;
    assert_eq!(first.post("/api/publish", TOKEN, gone).await.status, 200);

    let publishers: JoinSet<()> = (0..PUBLISHERS).map(|at| Arc::clone(&crowd).publish(at)).collect();
    eventually("enough publishes are answered", || crowd.answered.lock().unwrap().len() >= 2 * PUBLISHERS).await;
    let signalled = Instant::now();
    first.signal("TERM");
    assert_eq!(first.event("server.draining").await["connections"], SOCKETS + STREAMS);
    let mut left = within(listening.join_all()).await;
    within(publishers.join_all()).await;
    let ended = first.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    left.sort_unstable_by_key(|left| (left.after_ms, left.last.offset));
    check_even_spread(&left);
    for left in &left {
        // The announced delay begins when the server receives the signal. So no close comes earlier than this moment.
        let due = crowd.answered_before(signalled + Duration::from_millis(left.after_ms));
        assert!(left.last.offset >= due && left.last.offset > left.acknowledged, "{left:?} lacks messages up to {due}");
    }
    let in_order = left.is_sorted_by_key(|left| left.last.offset);
    assert!(in_order, "a client that was closed later has fewer messages");
    let during_the_drain = left[left.len() - 1].last.offset - left[0].last.offset;
    assert!(during_the_drain > 0, "messages were published during the drain");

    let second = serve().await;
    let again: Vec<Value> = (0..20)
        .map(|at| json!({"topic": "odds_updates", "key": format!("{}/1x2/{}", at % 3, at), "data": ["again", at]}))
        .chain([json!({"topic": "scrape_progress", "data": "again"})])
        .collect();
    assert_eq!(second.post("/api/publish", TOKEN, &json!(again).to_string()).await.status, 200);
    let (mut wires, resumed) = reconnect_all(second.address, &left).await;
    let told = json!({
        "odds_updates": {"mode": "snapshot", "skipped": null},
        "scrape_progress": {"mode": "gap", "skipped": null},
    });
    assert_eq!(resumed.told, told);
    let url = format!("http://{}/api/topics/odds_updates/state", second.address);
    let state: Value = serde_json::from_str(&reqwest::get(url).await.unwrap().text().await.unwrap()).unwrap();
    let items = state["items"].as_array().unwrap().iter();
    let items: BTreeMap<_, _> =
        items.map(|item| (item["key"].as_str().unwrap().to_owned(), item["data"].clone())).collect();
    assert_eq!(state_of(&resumed.messages), items);
    assert_eq!((items.len(), items.contains_key("gone")), (20, false));
    assert_eq!(resumed.position, state["position"]);

    assert_eq!(second.post("/api/publish", TOKEN, gone).await.status, 200);
    let live = async {
        for wire in &mut wires {
            assert_eq!(wire.expect("odds_updates").await["data"], "with the first server");
        }
    };
    within(live).await;
}

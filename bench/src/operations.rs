//! What does each step in the life of a message and a client cost?
//!
//! Most operations run in memory, without sockets and tasks. The operations `serve-*` and `handshake` run the whole
//! server on one thread. The gate counts the instructions of all operations, and `cargo bench` times the operations.

use std::hint::black_box;

use oddswire::log::{CatchUp, Log, LogLimits, Since, StepLimits, Style};
use oddswire::manager::{Connect, Connection, ConnectionManager, ManagerLimits};
use oddswire::message::{Draft, Message, Payload, Position, Timestamp};
use oddswire::outbox::{self, Outgoing, Receiver};
use oddswire::topic::{Subscription, Topics};
use serde_json::value::RawValue;
use slog::{Discard, Logger, o};
use tokio::net::TcpStream;

use crate::served::Served;

/// Runs an operation once.
pub type Run = Box<dyn FnMut()>;

/// An operation of a hot path.
pub struct Operation {
    pub name: &'static str,
    /// The number of repetitions in the gate. It is large enough to make the cost of the first repetitions, such as
    /// growing buffers, negligible.
    pub times: u32,
    pub prepare: fn() -> Run,
}

const fn operation(name: &'static str, times: u32, prepare: fn() -> Run) -> Operation {
    Operation { name, times, prepare }
}

pub const OPERATIONS: &[Operation] = &[
    operation("encode-200", 2_000, || encode(200)),
    operation("encode-500", 2_000, || encode(500)),
    operation("event-200", 2_000, || event(200)),
    operation("event-500", 2_000, || event(500)),
    operation("append-keyed", 2_500, || append(DISTINCT)),
    operation("append-unkeyed", 2_500, || append(0)),
    operation("append-unchanged", 2_500, unchanged),
    operation("publish-to-0", 1_200, || publish_to(0)),
    operation("publish-to-1", 1_200, || publish_to(1)),
    operation("publish-to-100", 1_200, || publish_to(100)),
    operation("publish-to-10000", 2, || publish_to(10_000)),
    operation("narrow-alone", 1_200, || narrow(0, 1)),
    operation("narrow-of-2000-keys", 1_200, || narrow(1_999, 1_999)),
    operation("snapshot-3260", 4, snapshot),
    operation("replay-1000", 8, replay),
    operation("conflate-1000", 8, conflate),
    operation("connect", 500, connect),
    operation("serve-100", 100, || serve(100, 1)),
    operation("serve-100-bursts", 50, || serve(100, 10)),
    operation("handshake", 100, handshake),
];

/// The number of keys in recorded odds, and the approximate length of a message's data in bytes.
const KEYS: u64 = 3_260;
const BYTES: usize = 400;

/// The number of keys in `append-keyed`. The data of each key alternates between two versions, so that no message is
/// unchanged.
const DISTINCT: u64 = 1_000;

const EPOCH: u64 = 1_763_849_000_000;

/// The size of a step of a catch-up, the same as in the manager.
const STEP: StepLimits = StepLimits { messages: 256, bytes: 128 << 10 };

fn now() -> Timestamp {
    Timestamp::from_millis(1_763_849_000_123)
}

fn topics() -> Topics {
    "odds_updates,scrape_progress".parse().expect("these are topics")
}

fn log() -> Log {
    Log::new(EPOCH, &topics(), LogLimits::default())
}

fn manager() -> ConnectionManager {
    ConnectionManager::new(topics(), log(), ManagerLimits::default(), Logger::root(Discard, o!()))
}

fn subscription(text: &str) -> Subscription {
    text.parse().expect("this is a subscription")
}

/// Builds a message with `bytes` bytes of data, with or without a key.
fn draft(key: Option<u64>, version: u64, bytes: usize) -> Draft {
    let mut data = format!(r#"{{"version":"{version:020}","pad":""#);
    data.extend(std::iter::repeat_n('x', bytes.saturating_sub(data.len() + 2)));
    data.push_str("\"}");
    let data = RawValue::from_string(data).expect("this is JSON");
    let key = key.map(|number| format!("e{number}/1x2/bench").parse().expect("this is a key"));
    let payload = Payload { key, kind: Some("odds_update".to_owned()), data, expires_at: None };
    Draft { topic: "odds_updates".parse().expect("this is a topic"), payload }
}

/// Builds two versions of a message for each key, or of one message if `keys` is 0.
fn versions(keys: u64, bytes: usize) -> Vec<Draft> {
    let of_version = |version| match keys {
        0 => vec![draft(None, version, bytes)],
        keys => (0..keys).map(|key| draft(Some(key), version, bytes)).collect(),
    };
    [1, 2].into_iter().flat_map(of_version).collect()
}

/// Encodes the WebSocket frame and the SSE event of a message.
fn encode(bytes: usize) -> Run {
    let draft = draft(Some(7), 1, bytes);
    let mut offset = 0;
    Box::new(move || {
        offset += 1;
        black_box(Message::new(&draft, Position { epoch: EPOCH, offset }, now()));
    })
}

/// Writes the SSE event of a message into a buffer, as each subscriber's writer does.
fn event(bytes: usize) -> Run {
    let message = Message::new(&draft(Some(7), 1, bytes), Position { epoch: EPOCH, offset: 1 }, now());
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        message.frames().write_event(&mut out);
        black_box(&out);
    })
}

/// Appends a message to the log. The log's history is full after 1,000 messages.
fn append(keys: u64) -> Run {
    let (drafts, mut log) = (versions(keys, BYTES), log());
    let mut next = (0..drafts.len()).cycle();
    Box::new(move || {
        let index = next.next().unwrap_or_default();
        black_box(log.append(&drafts[index], now()));
    })
}

/// Appends a message with the same data as the stored message of its key.
fn unchanged() -> Run {
    let (draft, mut log) = (draft(Some(7), 1, BYTES), log());
    log.append(&draft, now());
    Box::new(move || {
        black_box(log.append(&draft, now()));
    })
}

/// A client that empties its outbox, as a writer does.
struct Client {
    connection: Connection,
    receiver: Receiver,
}

impl Client {
    fn connect(manager: &ConnectionManager, to: &str) -> Self {
        let (connection, receiver) = manager.connect(Connect::to(vec![subscription(to)]));
        Self { connection, receiver }
    }

    fn take(&mut self) {
        while let Some(item) = self.receiver.try_recv() {
            self.receiver.settle(outbox::size(&item));
            if matches!(item, Outgoing::Refill) {
                self.connection.manager().refill(self.connection.id());
            }
            black_box(item);
        }
    }
}

/// Publishes a message to `subscribers` subscribers of the topic, each of which takes it from its outbox.
fn publish_to(subscribers: usize) -> Run {
    let (manager, drafts) = (manager(), versions(1, 200));
    let mut clients: Vec<Client> = (0..subscribers).map(|_| Client::connect(&manager, "odds_updates")).collect();
    let mut next = drafts.into_iter().cycle();
    Box::new(move || {
        let draft = next.next();
        black_box(manager.publish(draft.as_slice()).is_ok());
        clients.iter_mut().for_each(Client::take);
    })
}

/// Publishes a message to the key of one subscriber, while `others` clients subscribe to `keys` other keys.
fn narrow(others: u64, keys: u64) -> Run {
    let (manager, drafts) = (manager(), versions(1, 200));
    let connect = |number| Client::connect(&manager, &format!("odds_updates/e{}", 1 + number % keys));
    let others: Vec<Client> = (0..others).map(connect).collect();
    let mut client = Client::connect(&manager, "odds_updates/e0");
    let mut next = drafts.into_iter().cycle();
    Box::new(move || {
        let draft = next.next();
        black_box(manager.publish(draft.as_slice()).is_ok());
        client.take();
        black_box(&others);
    })
}

/// Builds a log that has got two messages for each key.
fn filled() -> Log {
    let mut log = log();
    for draft in versions(KEYS, BYTES) {
        log.append(&draft, now());
    }
    log
}

/// Runs a catch-up to its end, step by step.
fn caught_up(log: &Log, mut catch_up: CatchUp) {
    while !black_box(log.step(&mut catch_up, STEP)).done {}
}

/// Runs the catch-up of a new client, which gets the whole state.
fn snapshot() -> Run {
    let log = filled();
    Box::new(move || {
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add(subscription("odds_updates"), Since::Snapshot, &log);
        caught_up(&log, catch_up);
    })
}

/// Runs the catch-up of a client that reconnects and gets the last 1,000 messages.
fn replay() -> Run {
    let log = filled();
    let last = log.position();
    let since = Since::Position(Position { offset: last.offset - 1_000, ..last });
    Box::new(move || {
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add(subscription("odds_updates"), since, &log);
        caught_up(&log, catch_up);
    })
}

/// Runs the catch-up of a slow client, which gets the keys that the last 1,000 messages changed.
fn conflate() -> Run {
    let log = filled();
    let after = log.position().offset - 1_000;
    Box::new(move || {
        let mut catch_up = CatchUp::new(Style::Slow);
        catch_up.add_after(subscription("odds_updates"), after, true, &log);
        caught_up(&log, catch_up);
    })
}

/// Registers a connection with a manager that has 1,000 other connections, and drops it.
fn connect() -> Run {
    let manager = manager();
    let others: Vec<Client> = (0..1_000).map(|_| Client::connect(&manager, "odds_updates")).collect();
    Box::new(move || {
        black_box(Client::connect(&manager, "odds_updates"));
        black_box(&others);
    })
}

/// Publishes `burst` messages at once to `clients` WebSocket clients, each of which reads all messages from its socket.
/// A writer should write a burst with one system call. So a burst must cost less than the same number of single
/// messages.
fn serve(clients: usize, burst: usize) -> Run {
    let served = Served::start();
    let mut clients: Vec<TcpStream> = (0..clients).map(|_| served.client()).collect();
    let (witness, mut seen) = served.manager.connect(Connect::to(vec![subscription("odds_updates")]));
    seen.try_recv();
    // The number of drafts is even and their two versions alternate, so that no message is unchanged.
    let drafts: Vec<Draft> = versions(1, 200).into_iter().cycle().take(burst.next_multiple_of(2)).collect();
    let mut next = (0..drafts.len()).step_by(burst).cycle();
    let mut buffer = Vec::new();
    Box::new(move || {
        let first = next.next().unwrap_or_default();
        black_box(served.manager.publish(&drafts[first..first + burst]).is_ok());
        let mut length = 0;
        while let Some(item) = seen.try_recv() {
            seen.settle(outbox::size(&item));
            length += item.frames().map_or(0, |frames| frames.websocket().len());
        }
        buffer.resize(length, 0);
        served.read(&mut clients, &mut buffer);
        black_box(&witness);
    })
}

/// Connects a WebSocket client, waits for its `connection_ack`, and disconnects.
fn handshake() -> Run {
    let served = Served::start();
    Box::new(move || drop(black_box(served.client())))
}

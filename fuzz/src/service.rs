//! Sends requests to the server's HTTP service without a socket. The service has the same filters as in production.

use std::cell::OnceCell;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use oddswire::admission::Admission;
use oddswire::config::Config;
use oddswire::engine::Memory;
use oddswire::log::{self, Log};
use oddswire::manager::{Connection, ConnectionManager, ManagerLimits};
use oddswire::message::Frames;
use oddswire::outbox::{self, Outgoing, Receiver};
use oddswire::routes::{App, PublishRates};
use serde_json::Value;
use serde_json::value::RawValue;
use slog::{Discard, Logger, o};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::reply::Response;

/// The token for publish requests.
pub const PUBLISH_TOKEN: &str = "a-token-of-the-fuzz-targets";
/// The epoch of all positions, in Unix milliseconds.
pub const EPOCH: u64 = 1_763_849_000_000;
/// Small limits, so that the log drops old messages during a check.
const LOG_LIMITS: log::LogLimits = log::LogLimits {
    history_messages: 4,
    history_bytes: 1 << 16,
    history_age: Duration::from_hours(1),
    state_keys: 64,
    tombstone_age: Duration::from_hours(1),
    suppress_unchanged: true,
};

/// A response with its whole body.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The default settings with a publish token.
fn config() -> Arc<Config> {
    thread_local!(static CONFIG: OnceCell<Arc<Config>> = const { OnceCell::new() });
    let config = || {
        let mut config = Config::default();
        config.publish_token = Some(PUBLISH_TOKEN.parse().expect("the token is visible ASCII"));
        // 0 means no limit. A limit would reject the many publishes of a fuzzer.
        config.publishes_per_second = 0;
        Arc::new(config)
    };
    CONFIG.with(|cell| Arc::clone(cell.get_or_init(config)))
}

/// A manager with an empty log.
pub fn manager() -> ConnectionManager {
    let config = config();
    let log = Log::new(EPOCH, &config.topics, LOG_LIMITS);
    let limits = ManagerLimits {
        outbox_bytes: config.outbox_bytes,
        memory_budget: config.memory_budget,
        subscriptions: config.subscriptions_per_connection,
    };
    ConnectionManager::new(config.topics.clone(), log, limits, Logger::root(Discard, o!()))
}

/// A server without clients and messages.
pub fn app() -> App {
    let (config, manager) = (config(), manager());
    let publishers = config.publishers().expect("the token is a setting, not a file");
    App {
        publishers: Arc::new(RwLock::new(Arc::new(publishers))),
        publish_rates: PublishRates::default(),
        verifier: None,
        admission: Admission::new(config.max_connections, config.max_connections_per_ip),
        config,
        engine: Arc::new(Memory::new(manager.clone())),
        manager,
        draining: CancellationToken::new(),
        tasks: TaskTracker::new(),
        logger: Logger::root(Discard, o!()),
    }
}

/// Runs a future to its end. All calls in one thread use the same runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    thread_local!(static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts"));
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Sends the request to the service, and returns the response without reading its body.
pub async fn open(app: &App, request: Request<Full<Bytes>>) -> Response {
    let service = TowerToHyperService::new(warp::service(oddswire::routes::all(app)));
    service.call(request).await.unwrap_or_else(|never| match never {})
}

/// Sends the request to the service, and reads the whole response.
pub async fn call(app: &App, request: Request<Full<Bytes>>) -> Answer {
    read(open(app, request).await).await
}

/// Reads the response body. Checks the format of errors, which is the same for all endpoints.
pub async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body in memory has no errors").to_bytes();
    let answer = Answer { status: parts.status, headers: parts.headers, body };
    if answer.status.is_client_error() || answer.status.is_server_error() {
        assert!(!answer.status.is_server_error(), "{} for an input", answer.status);
        let error = &answer.json()["error"];
        assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "an error has a code");
        super::check_detail(error["detail"].as_str().expect("an error has a detail"));
    }
    answer
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// Empties a client's outbox as the server's writer does, and checks the frames of each item.
pub fn drain(connection: &Connection, receiver: &mut Receiver) -> Vec<Outgoing> {
    const MOST: usize = 10_000;
    let mut taken = Vec::new();
    while let Some(item) = receiver.try_recv() {
        receiver.settle(outbox::size(&item));
        if matches!(item, Outgoing::Refill) {
            connection.manager().refill(connection.id());
            continue;
        }
        if let Some(frames) = item.frames() {
            check_frames(frames);
        }
        taken.push(item);
        assert!(taken.len() < MOST, "a catch-up ends");
    }
    taken
}

/// Checks that both transports carry the same JSON text. A WebSocket carries it as one final, unmasked text frame, and
/// SSE as one event.
fn check_frames(frames: &Frames) {
    let text = std::str::from_utf8(frames.text()).expect("a message is UTF-8");
    serde_json::from_str::<&RawValue>(text).expect("a message is JSON");

    let frame = frames.websocket();
    let (length, header) = match frame[1] {
        126 => (usize::from(u16::from_be_bytes([frame[2], frame[3]])), 4),
        127 => (usize::try_from(u64::from_be_bytes(frame[2..10].try_into().expect("8 bytes"))).expect("it fits"), 10),
        short => (usize::from(short), 2),
    };
    assert_eq!(frame[0], 0x81, "the frame is a final text frame");
    assert_eq!((length, &frame[header..]), (text.len(), frames.text()));

    let mut event = Vec::new();
    frames.write_event(&mut event);
    let event = String::from_utf8(event).expect("an event is UTF-8");
    assert_eq!(event_data(&event), text.replace("\r\n", "\n").replace('\r', "\n"));
}

/// Parses one event as a browser does (HTML, section 9.2.6).
fn event_data(event: &str) -> String {
    let lines = event.strip_suffix("\n\n").expect("an empty line ends the event");
    let mut data = Vec::new();
    for line in lines.split(['\n', '\r']) {
        match line.split_once(": ").expect("each line is a field") {
            ("data", line) => data.push(line),
            (name, _) => assert_eq!(name, "id", "an event has only the fields id and data"),
        }
    }
    data.join("\n")
}

//! The test harness: starts the server exactly as production does, and offers clients that connect to it.

pub mod browser;
pub mod client;
pub mod command;
pub mod contract;
pub mod follower;
pub mod get;
pub mod hub;
pub mod jwt;
pub mod link;
pub mod markdown;
pub mod metrics;
pub mod node;
pub mod page;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod proxy;
pub mod raw;
pub mod recording;
pub mod redis;
pub mod sse;
pub mod tls;
pub mod watcher;
pub mod wire;
pub mod ws;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use oddswire::config::{Config, EngineKind, SyncWhen};
use oddswire::manager::ConnectionManager;
use oddswire::message::{Position, Timestamp};
use oddswire::server::Server;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::program::Directory;

/// The publish token of the tests' servers.
pub const TOKEN: &str = "test-token";
/// The deadline of every wait in a test. It is long because a task on a busy machine can wait a second for the
/// processor.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A running server.
pub struct App {
    pub address: SocketAddr,
    /// The address of the admin listener: metrics, health and connections.
    pub admin: SocketAddr,
    pub manager: ConnectionManager,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<bool>,
    /// The directory or the Redis that keeps the messages. Rust drops fields in order, so `_storage` is dropped last.
    _storage: Storage,
}

/// Where an engine keeps its messages. Dropping this value removes the messages.
#[expect(dead_code, reason = "the contents are only kept alive, never read")]
enum Storage {
    Memory,
    Journal(Directory),
    Redis(redis::Redis),
}

impl Storage {
    async fn of(engine: EngineKind, config: &mut Config) -> Self {
        config.engine = engine;
        match engine {
            EngineKind::Memory => Self::Memory,
            EngineKind::Journal => {
                let directory = Directory::new();
                config.data_dir = Some(directory.0.clone());
                // Syncing every publish to the disk would slow down every test. Tests of durability set `sync`
                // themselves.
                config.sync = SyncWhen::Interval(Duration::from_millis(50));
                Self::Journal(directory)
            }
            EngineKind::Redis => {
                let redis = redis::Redis::start().await.expect("TEST_ENGINE=redis needs redis-server");
                config.redis_url = Some(redis.url().parse().unwrap());
                Self::Redis(redis)
            }
        }
    }
}

/// The engine for tests that do not choose one: the value of `TEST_ENGINE`, else `memory`.
pub fn engine() -> EngineKind {
    match std::env::var("TEST_ENGINE").as_deref() {
        Err(_) | Ok("memory") => EngineKind::Memory,
        Ok("journal") => EngineKind::Journal,
        Ok("redis") => EngineKind::Redis,
        Ok(other) => panic!("TEST_ENGINE is '{other}': expected memory, journal or redis"),
    }
}

impl App {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with the default settings, after `change` has changed some of them.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::logging(logger(), change).await
    }

    /// The same as `with`, but always on the memory engine. Tests that pause the clock need this, because a broker's
    /// clock keeps running. So do tests of a restart that loses all state.
    pub async fn in_memory(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(EngineKind::Memory, logger(), change).await
    }

    /// The same as `with`, but with a logger from the test.
    pub async fn logging(logger: slog::Logger, change: impl FnOnce(&mut Config)) -> Self {
        Self::on(engine(), logger, change).await
    }

    async fn on(engine: EngineKind, logger: slog::Logger, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.publish_token = Some(TOKEN.parse().unwrap());
        // The default `drain_spread` would delay the end of each test. The default rate would limit how fast a client
        // can send. Tests of these two settings set them.
        config.drain_spread = Duration::ZERO;
        config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
        config.client_messages_per_second = 1_000_000;
        let storage = Storage::of(engine, &mut config).await;
        change(&mut config);
        let config = config.check().expect("a test's settings are valid");
        let waits = config.engine != EngineKind::Memory;
        let server = Server::bind(config, logger).expect("port 0 is always free");
        let (stop, stopped) = oneshot::channel();
        let (address, manager) = (server.local_addr(), server.manager().clone());
        let admin = server.admin_addr().expect("the harness sets one");
        let running = tokio::spawn(server.run(async {
            // If a test ends without stopping the server, the sender is dropped. That stops the server too.
            let _ = stopped.await;
        }));
        let http = reqwest::Client::new();
        let app = Self { address, admin, manager, http, stop: Some(stop), running, _storage: storage };
        if waits {
            app.wait_until_ready().await;
        }
        app
    }

    /// Waits until the server is ready. Some engines must first connect to their broker.
    async fn wait_until_ready(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        while self.get("/readyz").await.status != 200 {
            assert!(tokio::time::Instant::now() < deadline, "the server is not ready in time");
            looks.tick().await;
        }
    }

    /// Begins the drain of the server.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).expect("the server runs");
        }
    }

    /// Drains the server. Returns whether all connections ended before the drain timeout.
    pub async fn stop(mut self) -> bool {
        self.begin_stop();
        within(self.running).await.expect("the server does not panic")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path)).timeout(PATIENCE)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(reqwest::Method::GET, path)).await
    }

    /// Posts a body with the publish token.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(reqwest::Method::POST, path).bearer_auth(TOKEN);
        Answer::of(request.header("content-type", content_type).body(body)).await
    }

    /// Publishes a JSON value, which the server must accept.
    pub async fn publish(&self, body: &Value) -> Value {
        let answer = self.post("/api/publish", "application/json", body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.delivered(&answer.body).await;
        answer.body
    }

    /// Waits until this node has delivered the published messages. On a busy machine, a node on a broker can answer a
    /// publish before it delivers the messages.
    async fn delivered(&self, answer: &Value) {
        let published: Position = answer["position"].as_str().expect("a position").parse().expect("a position");
        let is_behind = || {
            let position = self.manager.position();
            position.epoch == published.epoch && position.offset < published.offset
        };
        eventually(&format!("{published} is delivered"), || !is_behind()).await;
    }

    /// Calls `batch` with an expiry about a second from now, and publishes the result. Returns the expiry and the
    /// answer. On a busy machine a second can pass before the server reads the batch. The server then refuses the
    /// batch, and this function tries again with a later expiry.
    pub async fn publish_expiring(&self, batch: impl Fn(&str) -> Value) -> (String, Value) {
        for seconds in [1, 5, 30] {
            let soon = Timestamp::now().plus(Duration::from_secs(seconds)).to_string();
            let answer = self.post("/api/publish", "application/json", batch(&soon).to_string()).await;
            if answer.status == 200 {
                self.delivered(&answer.body).await;
                return (soon, answer.body);
            }
        }
        panic!("the server took more than 30 seconds to read the batch");
    }

    /// Publishes one keyed message, which the server must accept.
    pub async fn odds(&self, key: &str, data: impl Into<Value>) -> Value {
        self.publish(&json!({"topic": "odds_updates", "key": key, "data": data.into()})).await
    }

    pub async fn ws(&self, query: &str) -> ws::Client {
        ws::Client::connect(self.address, query).await
    }

    pub async fn sse(&self, query: &str) -> sse::Client {
        sse::Client::connect(self, query, None).await
    }

    /// Waits until this many connections are registered.
    pub async fn connections(&self, count: usize) {
        eventually(&format!("{count} connections"), || self.manager.active_count() == count).await;
    }
}

/// A complete HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// The JSON body, or null.
    pub body: Value,
}

impl Answer {
    /// Sends a request to the server under test, and checks that the response conforms to `docs/api/openapi.yaml`.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("the test builds a valid request");
        let (method, path) = (request.method().to_string(), request.url().path().to_owned());
        let answer = Self::of_other(reqwest::RequestBuilder::from_parts(client, request)).await;
        let (status, body) = (answer.status, Some(&answer.body));
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        contract::Response { method: &method, path: &path, status, headers, body }.check();
        answer
    }

    /// Sends a request to another server, or to a proxy in front of oddswire, without checking the response.
    pub async fn of_other(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("the body is whole");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, text, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn detail(&self) -> &str {
        self.body["error"]["detail"].as_str().unwrap_or_default()
    }
}

/// Sets the maximum number of open files of this process and of the processes that it starts. The usual maximum is
/// 1,024.
pub fn allow_files(count: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux has this file");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("Linux lists this limit");
    if line.split_whitespace().next().is_some_and(|soft| soft.parse().is_ok_and(|soft: usize| soft >= count)) {
        return;
    }
    let (process, limit) = (std::process::id().to_string(), format!("--nofile={count}:"));
    let raised = std::process::Command::new("prlimit").args(["--pid", &process, &limit]).status();
    let raised = raised.expect("prlimit is installed").success();
    assert!(raised, "this test opens {count} files: raise the hard limit (ulimit -Hn)");
}

/// Connects with the smallest receive buffer that the system allows. A client that does not read then soon causes
/// backpressure.
pub async fn narrow_socket(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(1 << 12).expect("a small buffer");
    within(socket.connect(address)).await.expect("the server accepts")
}

/// Fails the test if the future takes longer than `PATIENCE`.
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        let output = tokio::time::timeout(PATIENCE, future).await;
        output.unwrap_or_else(|_| panic!("timed out after {PATIENCE:?} at {caller}"))
    }
}

/// Waits until `holds` returns true.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // Nothing reports when the condition becomes true, so poll it. Other tasks run between two polls.
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "timed out waiting for: {what}");
        looks.tick().await;
    }
}

/// Prints the server's log to the test's output if `TEST_LOG` is set; else discards it.
fn logger() -> slog::Logger {
    use slog::Drain as _;
    if std::env::var_os("TEST_LOG").is_none() {
        return slog::Logger::root(slog::Discard, slog::o!());
    }
    let plain = slog_term::PlainSyncDecorator::new(slog_term::TestStdoutWriter);
    slog::Logger::root(slog_term::FullFormat::new(plain).build().fuse(), slog::o!())
}

/// The path of a file in the recorded data. `None`, with one line on standard error, if the file is absent.
pub fn recorded(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: the recorded data {name} is absent");
    None
}

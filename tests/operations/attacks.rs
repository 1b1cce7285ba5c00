//! Attacks with many deliberately slow or silent connections. The server cuts each at its deadline. Meanwhile honest
//! clients receive every message in order. These tests do not measure the latency.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use oddswire::config::Config;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use crate::harness::client::Program;
use crate::harness::get::get;
use crate::harness::metrics::becomes;
use crate::harness::raw::Raw;
use crate::harness::{App, TOKEN, allow_files, eventually, within};

const ATTACKERS: usize = 1_000;
/// The number of honest clients over each transport.
const HONEST: usize = 50;
/// The duration of an attack, in seconds, if the server does not end it.
const ATTACK_SECONDS: &str = "45";

/// A server with honest clients, and room for one more connection.
struct Stage {
    app: App,
    clients: JoinSet<()>,
    received: Arc<AtomicUsize>,
    published: usize,
}

impl Stage {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        allow_files(4 * ATTACKERS);
        let app = App::with(|config| {
            config.max_connections = 2 * HONEST + 1;
            change(config);
        })
        .await;
        let (mut clients, received) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..HONEST {
            let (mut socket, mut events) = (app.ws("").await, app.sse("").await);
            let counter = Arc::clone(&received);
            clients.spawn(async move {
                for number in 1.. {
                    assert_eq!(socket.expect("odds_updates").await["data"], number);
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
            let counter = Arc::clone(&received);
            clients.spawn(async move {
                for number in 1.. {
                    assert_eq!(events.expect("odds_updates").await["data"], number);
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { app, clients, received, published: 0 }
    }

    /// Publishes a message, and waits until every honest client has received it.
    async fn publish(&mut self) {
        self.published += 1;
        self.app.odds(&format!("{}/x", self.published % 7), self.published).await;
        let everywhere = self.published * 2 * HONEST;
        eventually("every honest client has the message", || {
            // The task of a client ends if the client receives a wrong message or is closed.
            assert_eq!(self.clients.len(), 2 * HONEST);
            assert!(self.clients.try_join_next().is_none(), "a client failed");
            self.received.load(Ordering::SeqCst) == everywhere
        })
        .await;
    }

    /// Publishes while the attack runs, and once after the attack.
    async fn outlasts<T: Send + 'static>(&mut self, attack: impl Future<Output = T> + Send + 'static) -> T {
        let attack = tokio::spawn(attack);
        while !attack.is_finished() {
            self.publish().await;
        }
        self.publish().await;
        attack.await.expect("the attack's checks pass")
    }

    /// Attacks with `slowhttptest` until the server has ended all its connections. Returns `false` if `slowhttptest` is
    /// not installed.
    async fn outlasts_slowhttptest(&mut self, path: &str, arguments: &[&str]) -> bool {
        let (url, count) = (self.app.url(path), ATTACKERS.to_string());
        let all_at_once = ["-u", &url, "-c", &count, "-r", &count, "-i", "1", "-l", ATTACK_SECONDS, "-v", "1"];
        let Some(attack) = Program::start("slowhttptest", &[&all_at_once, arguments].concat()) else { return false };
        let (code, report) = self.outlasts(attack.end()).await;
        assert_eq!(code, Some(0), "{report}");
        assert!(report.contains("No open connections left"), "the server ends every slow connection: {report}");
        true
    }

    /// Checks that the server works as before the attack, and that the place for one more connection is still free.
    async fn check_unaffected(mut self) {
        assert!(self.published > 0);
        self.publish().await;
        assert_eq!(self.app.manager.active_count(), 2 * HONEST);
        self.app.ws("").await.close().await;
        self.clients.shutdown().await;
        self.app.connections(0).await;
        assert!(self.app.stop().await, "no connection delays the drain");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_headers_are_cut_by_header_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let mut stage = Stage::start(|config| config.header_timeout = TIMEOUT).await;
    for path in ["/api/ws", "/api/sse"] {
        let began = Instant::now();
        if !stage.outlasts_slowhttptest(path, &["-H"]).await {
            return;
        }
        assert!(began.elapsed() >= TIMEOUT, "the attack ended too early: {:?}", began.elapsed());
    }
    stage.check_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_are_cut_by_publish_body_timeout() {
    let mut stage = Stage::start(|config| config.publish_body_timeout = Duration::from_secs(3)).await;
    let length = ["-B", "-s", "100000", "-f"];
    // Without a token the server refuses the request before it reads the body. With a token the server waits for the
    // body. slowhttptest has no option for a token, so the value of the content type contains the header of the token.
    if !stage.outlasts_slowhttptest("/api/publish", &[&length[..], &["application/json"]].concat()).await {
        return;
    }
    let with_token = format!("application/json\r\nAuthorization: Bearer {TOKEN}");
    stage.outlasts_slowhttptest("/api/publish", &[&length[..], &[with_token.as_str()]].concat()).await;
    let attackers = f64::from(u32::try_from(ATTACKERS).unwrap());
    for code in ["unauthorized", "body_timeout"] {
        becomes(&stage.app, &format!("oddswire_requests_refused_total{{code=\"{code}\"}}"), attackers).await;
    }
    stage.check_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_cut_by_header_timeout() {
    let mut stage = Stage::start(|config| config.header_timeout = Duration::from_secs(3)).await;
    let attackers = join_all((0..ATTACKERS).map(|_| Raw::connect(stage.app.address))).await;
    let ends = join_all(attackers.into_iter().map(|mut raw| async move {
        assert_eq!(within(raw.socket.read(&mut [0])).await.expect("no reset"), 0, "the server sends no byte");
    }));
    stage.outlasts(ends).await;
    stage.check_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_without_pongs_are_closed_with_4408() {
    let mut stage = Stage::start(|config| {
        config.max_connections += ATTACKERS;
        (config.ping_interval, config.idle_timeout) = (Duration::from_secs(1), Duration::from_secs(6));
    })
    .await;
    // Subscribe to a topic without messages. With messages, the write timeout could end these connections first.
    let path = "/api/ws?topics=scrape_progress";
    let attackers = join_all((0..ATTACKERS).map(|_| get(stage.app.address, path, &[]))).await;
    let ends = join_all(attackers.into_iter().map(|(mut raw, _)| async move {
        loop {
            let frame = raw.frame().await.expect("a close frame comes before the end");
            if frame.opcode == 0x8 {
                return assert_eq!(frame.close_code(), 4408);
            }
        }
    }));
    stage.outlasts(ends).await;
    stage.app.connections(2 * HONEST).await;
    let reason = r#"oddswire_disconnects_total{transport="websocket",reason="keep_alive_timeout"}"#;
    becomes(&stage.app, reason, f64::from(u32::try_from(ATTACKERS).unwrap())).await;
    stage.check_unaffected().await;
}

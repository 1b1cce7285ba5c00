//! The files in `deploy/`: their values match the server's defaults, and the real proxies work with their files in
//! front of the real server.

use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use oddswire::config::Config;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::follower::Follower;
use crate::harness::program::deploy;
use crate::harness::proxy::{Configuration, GRACE, IDLE, Lines, Proxy, Recorder, Software};
use crate::harness::raw::Raw;
use crate::harness::{Answer, App, TOKEN, within, ws};

/// Defines each test once for every proxy.
macro_rules! with_each_proxy {
    ($($test:ident),* $(,)?) => {
        mod nginx { $(#[tokio::test] async fn $test() { super::$test(super::Software::Nginx).await; })* }
        mod haproxy { $(#[tokio::test] async fn $test() { super::$test(super::Software::Haproxy).await; })* }
        mod caddy { $(#[tokio::test] async fn $test() { super::$test(super::Software::Caddy).await; })* }
    };
}

with_each_proxy!(
    config_check_of_the_proxy_passes,
    messages_are_not_buffered,
    keep_alive_holds_an_idle_connection_beyond_the_timeout,
    idle_connection_without_keep_alive_is_cut_by_the_timeout,
    forwarding_headers_have_the_real_client_address_only,
    server_that_trusts_the_proxy_counts_connections_per_client,
    only_websockets_at_their_path_are_upgraded,
    requests_share_a_connection_to_the_server,
    client_that_resumes_after_a_reload_misses_no_message,
    largest_allowed_publish_passes,
    publisher_of_a_refused_large_body_gets_the_servers_error,
    proxy_refuses_a_publish_beyond_all_limits,
    paths_that_are_not_for_clients_are_not_found,
    token_in_the_query_is_not_logged,
);

// The files against the server's defaults.

/// The numbers that follow this text in a file of `deploy/`, except in comments.
fn numbers(file: &str, before: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(deploy(file)).unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let values = lines.filter_map(|line| Some(line.split_once(before)?.1.trim_start()));
    let numbers = values.map(|value| value.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap());
    let numbers: Vec<u64> = numbers.collect();
    assert!(!numbers.is_empty(), "{file} has no {before:?}");
    numbers
}

#[test]
fn times_and_sizes_in_the_files_match_the_servers_defaults() {
    let config = Config::default();
    let idle = config.idle_timeout.as_secs();
    assert!(config.ping_interval < config.idle_timeout && config.sse_comment_interval < config.idle_timeout);
    for (file, timeouts) in [
        ("nginx.conf", &["proxy_read_timeout ", "proxy_send_timeout "][..]),
        ("haproxy.cfg", &["timeout client ", "timeout server ", "timeout tunnel "]),
        ("Caddyfile", &["read_timeout "]),
    ] {
        for timeout in timeouts {
            assert!(numbers(file, timeout).iter().all(|&seconds| seconds > idle), "{file}: {timeout}");
        }
    }
    assert!(numbers("nginx.conf", " send_timeout ")[0] > config.write_timeout.as_secs());
    // oddswire closes a connection without a request after the header timeout.
    let silent = config.header_timeout.as_secs();
    assert!(numbers("nginx.conf", "keepalive_timeout ")[0] < silent, "the first value is the upstream's");
    assert!(numbers("Caddyfile", "keepalive ")[0] < silent);

    let body = config.publish_body_bytes as u64;
    assert!(numbers("nginx.conf", "client_max_body_size ").contains(&9) && body < 9 << 20);
    assert!(numbers("haproxy.cfg", "if publish { req.body_size gt ")[0] > body);
    assert!(numbers("Caddyfile", "max_size ").contains(&9));

    let drain = config.drain_timeout.as_secs();
    assert!(numbers("compose.yaml", "stop_grace_period: ")[0] > drain);
    let stop = numbers("kubernetes.yaml", "terminationGracePeriodSeconds: ")[0];
    assert!(stop > drain + numbers("kubernetes.yaml", r#"["/bin/sleep", ""#)[0]);
}

#[test]
fn every_variable_in_the_files_is_a_setting() {
    let command = Config::command();
    let settings: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
    for (file, before) in [("compose.yaml", ""), ("kubernetes.yaml", "- name: ")] {
        let text = std::fs::read_to_string(deploy(file)).unwrap();
        let names = text.lines().filter_map(|line| line.trim_start().strip_prefix(before));
        let names = names.filter(|name| name.starts_with("ODDSWIRE_")).map(|name| name.split(':').next().unwrap());
        let names: Vec<&str> = names.collect();
        assert!(names.contains(&"ODDSWIRE_LISTEN"), "{file}: {names:?}");
        assert!(names.iter().all(|name| settings.contains(name)), "{file}: {names:?}");
    }
}

// The proxies.

/// The idle timeout in these tests, instead of the files' 75 seconds.
const SHORT: Duration = Duration::from_secs(3);

async fn config_check_of_the_proxy_passes(software: Software) {
    if !software.is_installed() {
        return;
    }
    let output = Configuration::new(software, "127.0.0.1:8000".parse().unwrap(), &[]).check();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_lowercase();
    assert!(output.status.success(), "{said}");
    // nginx prints this warning to users other than root.
    let expected = "the \"user\" directive makes sense only if";
    let mut warnings = said.lines().filter(|line| line.contains("warn") && !line.contains(expected));
    assert_eq!(warnings.next(), None, "{said}");
}

/// Posts through the proxy.
async fn post(proxy: &Proxy, path: &str, token: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = reqwest::Client::new().post(proxy.url(path)).bearer_auth(token);
    within(Answer::of_other(request.header("content-type", "application/json").body(body))).await
}

async fn publish(proxy: &Proxy, data: Value) {
    let body = json!({"topic": "odds_updates", "key": "8301/1x2/a", "data": data}).to_string();
    let answer = post(proxy, "/api/publish", TOKEN, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn messages_are_not_buffered(software: Software) {
    // Send no comments, because a comment could push an event out of a proxy's buffer.
    let app = App::with(|config| config.sse_comment_interval = Duration::from_hours(1)).await;
    let Some(proxy) = Proxy::start(software, app.address, &[]).await else { return };
    let mut socket = ws::Client::connect(proxy.address, "topics=odds_updates").await;
    let mut events = Lines::connect(&proxy, "topics=odds_updates").await;
    assert!(events.data().await.unwrap().contains("connection_ack"));
    for number in 0..20 {
        publish(&proxy, json!(number)).await;
        assert_eq!(socket.next().await["data"], number);
        let event: Value = serde_json::from_str(&events.data().await.unwrap()).unwrap();
        assert_eq!(event["data"], number);
    }
    socket.nothing_came().await;
    assert_eq!(app.manager.active_count(), 2);
}

async fn keep_alive_holds_an_idle_connection_beyond_the_timeout(software: Software) {
    const KEEP_ALIVE: Duration = Duration::from_millis(500);
    let keep_alive =
        |config: &mut Config| (config.ping_interval, config.sse_comment_interval) = (KEEP_ALIVE, KEEP_ALIVE);
    let app = App::with(keep_alive).await;
    let Some(proxy) = Proxy::start(software, app.address, &[(IDLE, &seconds(SHORT))]).await else { return };
    let mut socket = ws::Client::connect(proxy.address, "").await;
    let mut events = Lines::connect(&proxy, "").await;
    events.data().await.unwrap();
    let (mut pings, mut comments) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < 2 * SHORT + KEEP_ALIVE {
        let (frame, line) = tokio::join!(socket.frame(), events.next());
        assert!(matches!(frame, Some(Ok(Message::Ping(_)))), "{frame:?}");
        assert_eq!(line.as_deref(), Some(":"));
        (pings, comments) = (pings + 1, comments + 1);
    }
    assert!(pings >= 5 && comments >= 5, "{pings} pings and {comments} comments");
    publish(&proxy, json!("still here")).await;
    assert!(events.data().await.unwrap().contains("still here"));
    assert_eq!(socket.next().await["data"], "still here");
}

async fn idle_connection_without_keep_alive_is_cut_by_the_timeout(software: Software) {
    const LONG: Duration = Duration::from_hours(1);
    let silent = |config: &mut Config| {
        (config.ping_interval, config.idle_timeout, config.sse_comment_interval) = (LONG, 2 * LONG, LONG);
    };
    let app = App::with(silent).await;
    let Some(proxy) = Proxy::start(software, app.address, &[(IDLE, &seconds(SHORT))]).await else { return };
    let started = Instant::now();
    let mut socket = ws::Client::connect(proxy.address, "").await;
    let mut events = Lines::connect(&proxy, "").await;
    events.data().await.unwrap();
    let (frame, line) = tokio::join!(socket.frame(), events.next());
    assert!(matches!(frame, None | Some(Err(_))), "{frame:?}");
    assert_eq!(line, None);
    assert!(started.elapsed() > SHORT / 2, "the timeout cut the connections, nothing else: {:?}", started.elapsed());
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// A client's connection to the proxy. The client has another address than the proxy.
async fn client(proxy: &Proxy) -> Raw {
    client_from("127.0.0.2:0", proxy).await
}

async fn client_from(address: &str, proxy: &Proxy) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    Raw { socket: within(socket.connect(proxy.address)).await.expect("the proxy accepts") }
}

async fn forwarding_headers_have_the_real_client_address_only(software: Software) {
    let mut server = Recorder::start().await;
    let Some(proxy) = Proxy::start(software, server.address, &[]).await else { return };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let requests = [
        ("GET", "/api/ws", upgrade),
        ("GET", "/api/sse", ""),
        ("GET", "/api/topics", ""),
        ("POST", "/api/publish", "Content-Length: 0\r\n"),
    ];
    let spoofed = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 203.0.113.10\r\nForwarded: for=203.0.113.9\r\n\
                   x-real-ip: 203.0.113.9\r\nX-Forwarded-Host: 203.0.113.9\r\nX-Forwarded-Proto: 203.0.113.9\r\n";
    for (method, path, more) in requests {
        let request = format!("{method} {path}?a=1 HTTP/1.1\r\nHost: odds.example:81\r\n{spoofed}{more}\r\n");
        let mut client = client(&proxy).await;
        client.send(request.as_bytes()).await;
        let forwarded = server.request(path).await;
        assert!(forwarded.head.starts_with(&format!("{method} {path}?a=1 HTTP/1.1\r\n")), "{}", forwarded.head);
        assert_eq!(forwarded.all("x-forwarded-for"), ["127.0.0.2"], "{}", forwarded.head);
        assert_eq!(forwarded.all("x-forwarded-proto"), ["http"], "{}", forwarded.head);
        assert_eq!(forwarded.all("host"), ["odds.example:81"], "{}", forwarded.head);
        assert!(!forwarded.head.contains("203.0.113."), "{}", forwarded.head);
    }
}

async fn server_that_trusts_the_proxy_counts_connections_per_client(software: Software) {
    let limited = |config: &mut Config| {
        config.trusted_proxies = "127.0.0.1/32".parse().unwrap();
        config.max_connections_per_ip = 1;
    };
    let app = App::with(limited).await;
    let Some(proxy) = Proxy::start(software, app.address, &[]).await else { return };
    let mut clients = Vec::new();
    for (from, spoofed, status) in [
        ("127.0.0.2:0", "203.0.113.1", 200),
        ("127.0.0.2:0", "203.0.113.2", 429),
        ("127.0.0.3:0", "127.0.0.2", 200),
        ("127.0.0.3:0", "127.0.0.4", 429),
    ] {
        let mut client = client_from(from, &proxy).await;
        let head = format!("Host: localhost\r\nX-Forwarded-For: {spoofed}\r\nForwarded: for={spoofed}");
        client.send(format!("GET /api/sse HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{from} as {spoofed}");
        clients.push(client);
    }
}

async fn only_websockets_at_their_path_are_upgraded(software: Software) {
    let mut server = Recorder::start().await;
    let Some(proxy) = Proxy::start(software, server.address, &[]).await else { return };
    for (path, protocol, passes) in [
        ("/api/ws", "websocket", true),
        ("/api/ws", "WebSocket", true),
        ("/api/ws", "h2c", false),
        ("/api/sse", "websocket", false),
        ("/api/topics", "h2c", false),
    ] {
        let mut client = client(&proxy).await;
        let handshake = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let upgrade = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n{handshake}");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n").as_bytes()).await;
        let forwarded = server.request(path).await;
        let upgrades: Vec<String> = forwarded.all("upgrade").into_iter().map(str::to_lowercase).collect();
        assert_eq!(upgrades, if passes { vec!["websocket"] } else { vec![] }, "{protocol}: {}", forwarded.head);
    }
}

async fn requests_share_a_connection_to_the_server(software: Software) {
    let mut server = Recorder::start().await;
    let Some(proxy) = Proxy::start(software, server.address, &[]).await else { return };
    let mut client = client(&proxy).await;
    let mut connections = Vec::new();
    for _ in 0..5 {
        client.send(b"GET /api/topics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(client.response().await.status, 200);
        let forwarded = server.request("/api/topics").await;
        assert!(!forwarded.all("connection").contains(&"close"), "{}", forwarded.head);
        connections.push(forwarded.connection);
    }
    connections.dedup();
    assert_eq!(connections.len(), 1, "{connections:?}");
}

/// The connection of a client.
enum Stream {
    Socket(Box<ws::Client>),
    Events(Lines),
}

/// A client that reconnects and resumes when its connection ends.
struct Resuming {
    stream: Stream,
    follower: Follower,
    /// How often the connection ended.
    cuts: usize,
}

impl Resuming {
    async fn over_websocket(proxy: &Proxy) -> Self {
        let mut follower = Follower::default();
        let socket = ws::Client::connect(proxy.address, &follower.resume()).await;
        follower.take(&socket.ack.to_string());
        Self { stream: Stream::Socket(Box::new(socket)), follower, cuts: 0 }
    }

    async fn over_sse(proxy: &Proxy) -> Self {
        let mut follower = Follower::default();
        let mut events = Lines::connect(proxy, &follower.resume()).await;
        follower.take(&events.data().await.expect("the acknowledgement"));
        Self { stream: Stream::Events(events), follower, cuts: 0 }
    }

    /// Takes the next message, or resumes if the connection has ended.
    async fn step(&mut self, proxy: &Proxy) {
        let text = match &mut self.stream {
            Stream::Socket(socket) => loop {
                match socket.frame().await {
                    Some(Ok(Message::Text(text))) => break Some(text.to_string()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    _ => break None,
                }
            },
            Stream::Events(events) => events.data().await,
        };
        match text {
            Some(text) => self.follower.take(&text),
            None => self.reconnect(proxy).await,
        }
    }

    async fn reconnect(&mut self, proxy: &Proxy) {
        self.cuts += 1;
        let query = self.follower.resume();
        match &mut self.stream {
            Stream::Socket(socket) => {
                **socket = ws::Client::connect(proxy.address, &query).await;
                self.follower.take(&socket.ack.to_string());
            }
            Stream::Events(events) => *events = Lines::connect(proxy, &query).await,
        }
    }

    /// Follows until the client is live and has the message with this offset.
    async fn follow(&mut self, proxy: &Proxy, until: u64) {
        while self.follower.cursor.is_none_or(|cursor| cursor.offset < until) || !self.follower.is_live() {
            self.step(proxy).await;
        }
    }

    async fn until_cut(&mut self, proxy: &Proxy) {
        while self.cuts == 0 {
            self.step(proxy).await;
        }
    }
}

async fn client_that_resumes_after_a_reload_misses_no_message(software: Software) {
    // Keep a long history, so that no message is conflated even if the reload takes long.
    let remember = |config: &mut Config| (config.history_messages, config.history_bytes) = (1_000_000, 1 << 30);
    let app = App::with(remember).await;
    let Some(mut proxy) = Proxy::start(software, app.address, &[(GRACE, "300ms")]).await else { return };
    let mut socket = Resuming::over_websocket(&proxy).await;
    let mut events = Resuming::over_sse(&proxy).await;
    for number in 0..10 {
        publish(&proxy, json!(number)).await;
    }
    proxy.reload().await;

    // Publish while the proxy reloads and cuts its old connections.
    let both_cut = async { tokio::join!(socket.until_cut(&proxy), events.until_cut(&proxy)) };
    let publishing = async {
        for number in 10.. {
            app.odds("8301/1x2/a", number).await;
        }
    };
    tokio::select! {
        _ = both_cut => {}
        () = publishing => {}
    }
    for number in 0..10 {
        publish(&proxy, json!({"after": number})).await;
    }
    let last = app.manager.position().offset;
    for client in [&mut socket, &mut events] {
        client.follow(&proxy, last).await;
        assert_eq!(client.cuts, 1);
        assert_eq!(client.follower.state["8301/1x2/a"], r#"{"after":9}"#);
        assert_eq!(client.follower.messages as u64, last, "every message came once");
    }
}

/// A publish request of about this many bytes, split into messages within the size limit.
fn large(bytes: usize) -> String {
    let data = "x".repeat(32 << 10);
    let message = json!({"topic": "scrape_progress", "data": data}).to_string();
    let messages = vec![message.as_str(); bytes / (message.len() + 1)];
    format!("[{}]", messages.join(","))
}

async fn largest_allowed_publish_passes(software: Software) {
    let app = App::start().await;
    let Some(proxy) = Proxy::start(software, app.address, &[]).await else { return };
    let body = large(8 << 20);
    assert!(body.len() > (8 << 20) - (64 << 10) && body.len() <= 8 << 20);
    let answer = post(&proxy, "/api/publish", TOKEN, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn publisher_of_a_refused_large_body_gets_the_servers_error(software: Software) {
    let app = App::start().await;
    let Some(proxy) = Proxy::start(software, app.address, &[]).await else { return };
    for _ in 0..5 {
        let answer = post(&proxy, "/api/publish", TOKEN, large((8 << 20) + (128 << 10))).await;
        assert_eq!((answer.status, answer.code()), (413, "body_too_large"), "{}", answer.text);
        let answer = post(&proxy, "/api/publish", "wrong", large(8 << 20)).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthorized"), "{}", answer.text);
    }
    assert_eq!(app.manager.position().offset, 0);
}

async fn proxy_refuses_a_publish_beyond_all_limits(software: Software) {
    let app = App::start().await;
    let Some(proxy) = Proxy::start(software, app.address, &[]).await else { return };
    let mut client = client(&proxy).await;
    let request = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n";
    client.send(request.as_bytes()).await;
    assert_eq!(client.response().await.status, 413);
}

async fn paths_that_are_not_for_clients_are_not_found(software: Software) {
    let server = Recorder::start().await;
    let Some(proxy) = Proxy::start(software, server.address, &[]).await else { return };
    for (path, status) in [
        ("/api/topics", 200),
        ("/api/topics/odds_updates/state", 200),
        ("/", 404),
        ("/metrics", 404),
        ("/healthz", 404),
        ("/readyz", 404),
        ("/api/connections", 404),
        ("/api/wsx", 404),
        ("/api/topics/a/b/state", 404),
        ("/api/../metrics", 404),
        ("/api/topics/../connections", 404),
        ("/api/topics/..%2fconnections", 404),
        ("//metrics", 404),
    ] {
        let mut client = client(&proxy).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{path}");
    }
}

async fn token_in_the_query_is_not_logged(software: Software) {
    let app = App::start().await;
    let address = app.address;
    let Some(proxy) = Proxy::start(software, address, &[]).await else { return };
    let mut socket = ws::Client::connect(proxy.address, "token=marmalade").await;
    socket.nothing_came().await;
    socket.close().await;
    let path = "/api/topics?token=marmalade&a=1";
    assert_eq!(within(Answer::of_other(reqwest::Client::new().get(proxy.url(path)))).await.status, 200);
    // Stop the server, because a proxy logs most when it cannot reach the server.
    assert!(app.stop().await);
    let status = within(Answer::of_other(reqwest::Client::new().get(proxy.url(path)))).await.status;
    assert!([502, 503].contains(&status), "{status}");
    let logged = || ["/api/ws", "/api/topics", &status.to_string()].iter().all(|part| proxy.logs().contains(part));
    crate::harness::eventually("the requests are in the log", logged).await;
    assert!(!proxy.logs().contains("marmalade"), "{}", proxy.logs());
}

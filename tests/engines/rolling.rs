//! Two nodes behind a real proxy are restarted in turn while publishers publish. Clients that resume get every message
//! once, and every acknowledged message arrives once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::follower::Follower;
use crate::harness::node::node;
use crate::harness::process::{Process, TOKEN};
use crate::harness::program::Port;
use crate::harness::proxy::{Proxy, Software};
use crate::harness::redis::Redis;
use crate::harness::within;

const SOCKETS: usize = 40;
const STREAMS: usize = 10;
const PUBLISHERS: usize = 3;
const END: &str = "\"end\"";

/// The messages that a client has received: the client's follower, and how often each value came.
#[derive(Default)]
struct Heard {
    follower: Follower,
    data: HashMap<String, usize>,
}

impl Heard {
    /// Handles a message, and returns whether the client has received everything.
    fn take(&mut self, text: &str) -> bool {
        let message: serde_json::Value = serde_json::from_str(text).expect("the server sends JSON");
        if message["id"].is_string() {
            *self.data.entry(message["data"].to_string()).or_default() += 1;
        }
        if message["type"] != "reconnect" {
            self.follower.take(text);
        }
        self.follower.keyless.as_deref() == Some(END) && self.follower.is_live()
    }
}

/// Follows the messages over a `WebSocket` to the end. After each disconnect, the client resumes from the last id.
async fn by_socket(proxy: SocketAddr, here: watch::Sender<usize>) -> Heard {
    let mut heard = Heard::default();
    loop {
        let query = heard.follower.resume();
        let Ok(socket) = TcpStream::connect(proxy).await else { continue };
        let url = format!("ws://{proxy}/api/ws?{query}");
        let Ok((mut client, _)) = within(tokio_tungstenite::client_async(url, socket)).await else { continue };
        let mut first = query.is_empty();
        while let Some(Ok(message)) = within(client.next()).await {
            match message {
                Message::Text(text) if heard.take(&text) => return heard,
                Message::Text(_) if std::mem::take(&mut first) => here.send_modify(|count| *count += 1),
                Message::Close(_) => break,
                _ => {}
            }
        }
    }
}

/// The same as `by_socket`, but over SSE.
async fn by_events(proxy: SocketAddr, here: watch::Sender<usize>) -> Heard {
    let mut heard = Heard::default();
    let http = reqwest::Client::new();
    loop {
        let query = heard.follower.resume();
        let answer = within(http.get(format!("http://{proxy}/api/sse?{query}")).send()).await;
        let Ok(mut answer) = answer.and_then(reqwest::Response::error_for_status) else { continue };
        let (mut buffer, mut first) = (Vec::new(), query.is_empty());
        while let Ok(Some(chunk)) = within(answer.chunk()).await {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data: ") else { continue };
                if heard.take(std::str::from_utf8(data).unwrap().trim_end()) {
                    return heard;
                }
                if std::mem::take(&mut first) {
                    here.send_modify(|count| *count += 1);
                }
            }
        }
    }
}

/// Publishes through the proxy until `over` is true, and returns the acknowledged values.
async fn publish(proxy: SocketAddr, publisher: usize, over: watch::Receiver<bool>) -> Vec<String> {
    let http = reqwest::Client::new();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if *over.borrow() {
            break;
        }
        let key = format!("{publisher}-{number}");
        let body = json!({"topic": "odds_updates", "key": format!("{publisher}/{}", number % 10), "data": key});
        loop {
            let request = http.post(format!("http://{proxy}/api/publish")).bearer_auth(TOKEN);
            let request = request.header("idempotency-key", &key).header("content-type", "application/json");
            match within(request.body(body.to_string()).send()).await {
                Ok(answer) if answer.status() == 200 => break,
                Ok(answer) => assert!([502, 503, 504].contains(&answer.status().as_u16()), "{}", answer.status()),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        acknowledged.push(json!(key).to_string());
    }
    acknowledged
}

async fn start(redis: &Redis, port: &Port) -> Process {
    let (listen, url) = (port.address.to_string(), redis.url());
    let settings = [
        ("ODDSWIRE_LISTEN", listen.as_str()),
        ("ODDSWIRE_REDIS_URL", &url),
        // Keep a long history, so that no message is conflated even if a restart takes long.
        ("ODDSWIRE_HISTORY_MESSAGES", "1000000"),
        ("ODDSWIRE_HISTORY_BYTES", "1GiB"),
        ("ODDSWIRE_OUTBOX_BYTES", "64MiB"),
        ("ODDSWIRE_DRAIN_SPREAD", "500ms"),
        ("ODDSWIRE_LOG_FORMAT", "json"),
    ];
    let process = node(&settings).await;
    process.ready().await;
    process
}

async fn test_rolling_restart(software: Software, nodes_in: impl Fn(&str) -> Vec<(&'static str, String)>) {
    if !software.is_installed() {
        return;
    }
    let Some(redis) = Redis::start().await else { return };
    let ports = [Port::free(), Port::free()];
    let mut nodes = Vec::new();
    for port in &ports {
        nodes.push(start(&redis, port).await);
    }
    let changes = nodes_in(&ports[1].address.to_string());
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let Some(proxy) = Proxy::start(software, ports[0].address, &changes).await else { return };

    let (here, mut all_here) = watch::channel(0);
    let mut clients = JoinSet::new();
    for _ in 0..SOCKETS {
        clients.spawn(by_socket(proxy.address, here.clone()));
    }
    for _ in 0..STREAMS {
        clients.spawn(by_events(proxy.address, here.clone()));
    }
    within(all_here.wait_for(|count| *count == SOCKETS + STREAMS)).await.expect("the clients connect");
    let (over, publishing) = watch::channel(false);
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        publishers.spawn(publish(proxy.address, publisher, publishing.clone()));
    }
    for port in &ports {
        // Meanwhile the other node serves all clients and publishers.
        nodes.remove(0).stop().await;
        nodes.push(start(&redis, port).await);
    }
    over.send_replace(true);
    let mut acknowledged = Vec::new();
    while let Some(published) = within(publishers.join_next()).await {
        acknowledged.extend(published.expect("the publisher does not panic"));
    }
    let last = nodes[1].take(&json!({"topic": "scrape_progress", "data": "end"})).await;
    let last: oddswire::message::Position = last["position"].as_str().unwrap().parse().unwrap();
    assert_eq!(last.offset, acknowledged.len() as u64 + 1, "each acknowledged message was stored once");
    let state = Arc::new(nodes[0].state().await);
    while let Some(heard) = within(clients.join_next()).await {
        let heard = heard.expect("the client does not panic");
        assert_eq!(heard.follower.state, *state);
        assert!(heard.follower.modes.keys().all(|mode| mode == "replayed"), "{:?}", heard.follower.modes);
        assert_eq!(heard.follower.messages as u64, last.offset, "every message came once");
        assert!(acknowledged.iter().all(|value| heard.data.get(value) == Some(&1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_behind_nginx_loses_nothing() {
    let second = |address: &str| vec![("#server 127.0.0.1:8001", format!("server {address}"))];
    test_rolling_restart(Software::Nginx, second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_behind_haproxy_loses_nothing() {
    let second = |address: &str| vec![("#nodes ", String::new()), ("127.0.0.1:8001", address.to_owned())];
    test_rolling_restart(Software::Haproxy, second).await;
}

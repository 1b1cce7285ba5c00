//! A real browser, headless Chromium, with its built-in `WebSocket` and `EventSource`. An `EventSource` reconnects
//! automatically.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use oddswire::message::Payload;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::browser::Browser;
use crate::harness::follower::Follower;
use crate::harness::program::Port;
use crate::harness::{App, within};

const TOPICS: &str = "/api/sse?topics=odds_updates,scrape_progress";

/// A browser with one page.
struct Page(Browser);

impl Page {
    /// Starts the browser. Returns `None`, and prints one line to standard error, if a required program or package is
    /// not installed.
    async fn start() -> Option<Self> {
        Browser::start("eventsource.mjs", &["playwright-core"]).await.map(Self)
    }

    /// Closes the previous page, opens a new one, and connects it to the URL of an event stream or a WebSocket.
    async fn open(&mut self, page: &str, url: &str) {
        self.0.tell(&json!({"page": page, "url": url})).await;
        self.0.next("page").await;
        self.0.forget();
    }

    async fn next(&mut self, kind: &str) -> Value {
        self.0.next(kind).await
    }

    /// The next message that the page received.
    async fn message(&mut self) -> Value {
        serde_json::from_str(self.next("message").await["data"].as_str().unwrap()).unwrap()
    }

    /// The status of the next response to the page's `EventSource`, and the `Last-Event-ID` of the request.
    async fn response(&mut self) -> (u64, Option<String>) {
        let response = self.next("response").await;
        (response["status"].as_u64().unwrap(), response["last_event_id"].as_str().map(str::to_owned))
    }

    async fn end(self) {
        self.0.end().await;
    }
}

/// The messages that the page has received since it was opened.
#[derive(Default)]
struct Received {
    follower: Follower,
    /// The data of the published messages, in the order of arrival.
    data: Vec<Value>,
    connections: usize,
    /// How often a server announced its shutdown.
    farewells: usize,
}

impl Received {
    /// Takes messages until the page is connected, has received this many published messages, and is live.
    async fn until(&mut self, messages: usize, browser: &mut Page) {
        while self.connections == 0 || self.data.len() < messages || !self.follower.is_live() {
            let event = browser.next("message").await;
            let text = event["data"].as_str().unwrap();
            let message: Value = serde_json::from_str(text).unwrap();
            match message["type"].as_str().unwrap() {
                "connection_ack" => {
                    // The browser has reconnected automatically, so tell the follower.
                    self.follower.resume();
                    self.connections += 1;
                }
                "reconnect" => {
                    self.farewells += 1;
                    continue;
                }
                _ => {}
            }
            self.follower.take(text);
            let topics = message["data"]["topics"].as_object();
            if topics.is_some_and(|topics| topics.values().any(|entry| entry["mode"] == "snapshot")) {
                assert_eq!(
                    event["last_event_id"], "0-0",
                    "before the first message of a snapshot, the browser has no position"
                );
                continue;
            }
            assert_eq!(event["last_event_id"], self.last_id(), "the browser resumes where the follower would: {text}");
            if message.get("topic").is_some() {
                self.data.push(message["data"].clone());
            }
        }
    }

    fn last_id(&self) -> String {
        self.follower.cursor.expect("the page has been connected").to_string()
    }

    fn state(&self) -> Value {
        let entry = |(key, data): (&String, &String)| (key.clone(), serde_json::from_str::<Value>(data).unwrap());
        self.follower.state.iter().map(entry).collect()
    }
}

/// A TCP proxy between the browser and the server. The test can cut it.
struct Wire(JoinSet<()>);

impl Wire {
    /// Forwards connections. Cuts each connection after this many bytes to the browser.
    fn open(port: &Port, server: SocketAddr, bytes: u64) -> Self {
        let listener = port.listen();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((browser, _)) = listener.accept().await {
                connections.spawn(Self::pass(browser, server, bytes));
            }
        });
        Self(tasks)
    }

    async fn pass(mut browser: TcpStream, server: SocketAddr, bytes: u64) {
        let mut server = within(TcpStream::connect(server)).await.expect("the server accepts");
        let (mut from_browser, mut to_browser) = browser.split();
        let (from_server, mut to_server) = server.split();
        let mut from_server = from_server.take(bytes);
        // If one direction ends, end both.
        tokio::select! {
            _ = tokio::io::copy(&mut from_browser, &mut to_server) => {}
            _ = tokio::io::copy(&mut from_server, &mut to_browser) => {}
        }
    }

    /// Closes all connections and frees the port.
    async fn cut(mut self) {
        within(self.0.shutdown()).await;
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

#[tokio::test]
async fn page_reconnects_to_a_restarted_server_and_gets_its_state() {
    let Some(mut browser) = Page::start().await else { return };
    let port = Port::free();
    let spread = Duration::from_secs(3);
    let app = App::in_memory(|config| (config.listen, config.drain_spread) = (port.address, spread)).await;
    browser.open(&port.url("/healthz"), &port.url(TOPICS)).await;
    let mut received = Received::default();
    received.until(0, &mut browser).await;
    assert_eq!(browser.response().await, (200, None));
    app.odds("8301/1x2/betpawa", 1).await;
    app.odds("8302/1x2/betpawa", 2).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "before"})).await;
    received.until(3, &mut browser).await;
    assert_eq!(received.state(), json!({"8301/1x2/betpawa": 1, "8302/1x2/betpawa": 2}));
    let last = received.last_id();
    let left = Instant::now();
    assert!(app.stop().await, "the page's stream ends with the drain");

    let app = port.serve().await;
    // The server runs on this thread and accepts connections only when this test waits. So the page cannot connect
    // before these messages are published.
    let [odds, progress] = ["odds_updates", "scrape_progress"].map(|topic| topic.parse().unwrap());
    for (key, data) in [("8302/1x2/betpawa", "20"), ("8303/1x2/betpawa", "30")] {
        app.manager.broadcast(Payload::keyed(key.parse().unwrap(), raw(data)), &odds).unwrap();
    }
    app.manager.broadcast(Payload::new(raw(r#""after""#)), &progress).unwrap();
    received.until(6, &mut browser).await;
    assert_eq!(browser.response().await, (200, Some(last)));
    let away = left.elapsed();
    assert!(away >= spread + Duration::from_secs(1), "the page waits until the drain would have ended: {away:?}");
    assert_eq!(json!(received.follower.modes), json!({"snapshot": 1, "gap": 1}));
    assert_eq!(received.state(), json!({"8302/1x2/betpawa": 20, "8303/1x2/betpawa": 30}), "the old state is dropped");
    assert_eq!(received.data[3..], [json!(20), json!(30), json!("after")]);

    app.odds("8303/1x2/betpawa", 31).await;
    received.until(7, &mut browser).await;
    assert_eq!(received.state(), json!({"8302/1x2/betpawa": 20, "8303/1x2/betpawa": 31}), "the page is live again");
    assert_eq!((received.connections, received.farewells), (2, 1));
    assert_eq!(received.last_id(), app.manager.position().to_string());
    browser.end().await;
    app.connections(0).await;
}

#[tokio::test]
async fn page_whose_connection_is_cut_gets_every_message_once() {
    let Some(mut browser) = Page::start().await else { return };
    let app = App::start().await;
    let port = Port::free();
    let wire = Wire::open(&port, app.address, u64::MAX);
    browser.open(&port.url("/healthz"), &port.url(TOPICS)).await;
    let mut received = Received::default();
    received.until(0, &mut browser).await;
    // Every second message has no key, and each key changes many times.
    let messages: Vec<Value> = (0..400)
        .map(|at| match at % 2 {
            0 => json!({"topic": "odds_updates", "key": format!("{}/1x2/betpawa", at % 20), "data": at}),
            _ => json!({"topic": "scrape_progress", "data": at}),
        })
        .collect();
    let (live, missed) = messages.split_at(20);
    app.publish(&json!(live)).await;
    received.until(20, &mut browser).await;
    let last = received.last_id();

    wire.cut().await;
    app.connections(0).await;
    app.publish(&json!(missed)).await;
    // The page missed 61 to 65 KiB, depending on the number of chunks. So the cut comes after more than half of the
    // replay, in the middle of a message. The next connection brings the rest.
    let wire = Wire::open(&port, app.address, 40 << 10);
    received.until(400, &mut browser).await;
    assert_eq!(json!(received.data), json!((0..400).collect::<Vec<_>>()));
    assert_eq!(received.connections, 3);
    assert_eq!(json!(received.follower.modes), json!({"replayed": 4}), "two replays for each of the two topics");
    let [first, second, third] = [browser.response().await, browser.response().await, browser.response().await];
    assert_eq!((first, second), ((200, None), (200, Some(last.clone()))));
    let third = third.1.expect("the browser resumes");
    assert!(third != last && third != received.last_id(), "the second cut was in the middle: {third}");

    app.odds("live", "again").await;
    received.until(401, &mut browser).await;
    browser.end().await;
    app.connections(0).await;
    wire.cut().await;
}

#[tokio::test]
async fn pages_of_other_origins_connect_only_if_allowed() {
    let Some(mut browser) = Page::start().await else { return };
    let app = App::start().await;
    let same = app.url("/healthz");
    // For a browser, `localhost` and `127.0.0.1` are different origins.
    let foreign = format!("http://localhost:{}", app.address.port());
    let welcoming = App::with(|config| config.allowed_origins = Some(foreign.parse().unwrap())).await;
    let foreign = format!("{foreign}/healthz");
    let [websocket, welcoming_websocket] = [&app, &welcoming].map(|app| format!("ws://{}/api/ws", app.address));

    for (app, page, url) in [
        (&app, &same, &websocket),
        (&app, &same, &app.url("/api/sse")),
        (&welcoming, &foreign, &welcoming_websocket),
        (&welcoming, &foreign, &welcoming.url("/api/sse")),
    ] {
        browser.open(page, url).await;
        assert_eq!(browser.message().await["type"], "connection_ack", "{page} {url}");
        let position = app.odds("8301/1x2/betpawa", url.as_str()).await["position"].clone();
        let message = browser.message().await;
        assert_eq!((&message["id"], &message["data"]), (&position, &json!(url)), "{page}");
    }

    browser.open(&foreign, &app.url("/api/sse")).await;
    assert_eq!(browser.response().await, (403, None));
    assert_eq!(browser.next("error").await["ready_state"], 2, "the EventSource is closed and does not reconnect");
    browser.open(&foreign, &websocket).await;
    let refused = browser.next("refused").await;
    assert!(refused["detail"].as_str().unwrap().ends_with("403"), "{refused}");
    assert_eq!(browser.next("close").await["ready_state"], 3);
    browser.end().await;
    app.connections(0).await;
}

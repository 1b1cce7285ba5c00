//! A real browser: headless Chromium, with its own `EventSource` that reconnects by itself, and its own `WebSocket`.

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
    /// `None`, said in one line, where something that it takes is not installed.
    async fn start() -> Option<Self> {
        Browser::start("eventsource.mjs", &["playwright-core"]).await.map(Self)
    }

    /// Opens a page in place of the one before, and in it the URL of an event stream or a WebSocket.
    async fn open(&mut self, page: &str, url: &str) {
        self.0.tell(&json!({"page": page, "url": url})).await;
        self.0.next("page").await;
        self.0.forget();
    }

    async fn next(&mut self, kind: &str) -> Value {
        self.0.next(kind).await
    }

    /// The next message that the page got.
    async fn message(&mut self) -> Value {
        serde_json::from_str(self.next("message").await["data"].as_str().unwrap()).unwrap()
    }

    /// The status of the next response to the page's event stream, and the `Last-Event-ID` that it was asked for with.
    async fn response(&mut self) -> (u64, Option<String>) {
        let response = self.next("response").await;
        (response["status"].as_u64().unwrap(), response["last_event_id"].as_str().map(str::to_owned))
    }

    async fn end(self) {
        self.0.end().await;
    }
}

/// What the page was told since it was opened.
#[derive(Default)]
struct Told {
    follower: Follower,
    /// The data of every published message, as it came.
    data: Vec<Value>,
    connections: usize,
    /// How often a server said that it shuts down.
    farewells: usize,
}

impl Told {
    /// Takes messages until it is connected, holds that many published ones, and is live.
    async fn until(&mut self, messages: usize, browser: &mut Page) {
        while self.connections == 0 || self.data.len() < messages || !self.follower.is_live() {
            let event = browser.next("message").await;
            let text = event["data"].as_str().unwrap();
            let message: Value = serde_json::from_str(text).unwrap();
            match message["type"].as_str().unwrap() {
                "connection_ack" => {
                    // The browser did by itself what the follower is told to do.
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
            if topics.is_some_and(|topics| topics.values().any(|told| told["mode"] == "snapshot")) {
                assert_eq!(event["last_event_id"], "0-0", "until the first message of it, it holds nothing");
                continue;
            }
            assert_eq!(event["last_event_id"], self.last_id(), "the browser resumes where the follower would: {text}");
            if message.get("topic").is_some() {
                self.data.push(message["data"].clone());
            }
        }
    }

    fn last_id(&self) -> String {
        self.follower.cursor.expect("it has been connected").to_string()
    }

    fn state(&self) -> Value {
        let entry = |(key, data): (&String, &String)| (key.clone(), serde_json::from_str::<Value>(data).unwrap());
        self.follower.state.iter().map(entry).collect()
    }
}

/// What lies between the browser and the server, and can be cut.
struct Wire(JoinSet<()>);

impl Wire {
    /// Each connection is cut after that many bytes to the browser.
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
        // Either end ends both; how it ended is of no interest.
        tokio::select! {
            _ = tokio::io::copy(&mut from_browser, &mut to_server) => {}
            _ = tokio::io::copy(&mut from_server, &mut to_browser) => {}
        }
    }

    /// Returns when all connections are closed and the port is free.
    async fn cut(mut self) {
        within(self.0.shutdown()).await;
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

#[tokio::test]
async fn a_page_finds_the_restarted_server_by_itself_and_is_told_that_its_state_is_another() {
    let Some(mut browser) = Page::start().await else { return };
    let port = Port::free();
    let spread = Duration::from_secs(3);
    let app = App::in_memory(|config| (config.listen, config.drain_spread) = (port.address, spread)).await;
    browser.open(&port.url("/healthz"), &port.url(TOPICS)).await;
    let mut told = Told::default();
    told.until(0, &mut browser).await;
    assert_eq!(browser.response().await, (200, None));
    app.odds("8301/1x2/betpawa", 1).await;
    app.odds("8302/1x2/betpawa", 2).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "before"})).await;
    told.until(3, &mut browser).await;
    assert_eq!(told.state(), json!({"8301/1x2/betpawa": 1, "8302/1x2/betpawa": 2}));
    let last = told.last_id();
    let left = Instant::now();
    assert!(app.stop().await, "the page's stream ends with the drain");

    let app = port.serve().await;
    // The server accepts nobody before this test waits for something, so the page cannot come before these.
    let [odds, progress] = ["odds_updates", "scrape_progress"].map(|topic| topic.parse().unwrap());
    for (key, data) in [("8302/1x2/betpawa", "20"), ("8303/1x2/betpawa", "30")] {
        app.manager.broadcast(Payload::keyed(key.parse().unwrap(), raw(data)), &odds).unwrap();
    }
    app.manager.broadcast(Payload::new(raw(r#""after""#)), &progress).unwrap();
    told.until(6, &mut browser).await;
    assert_eq!(browser.response().await, (200, Some(last)));
    let away = left.elapsed();
    assert!(away >= spread + Duration::from_secs(1), "it waits until others would have left, too: {away:?}");
    assert_eq!(json!(told.follower.modes), json!({"snapshot": 1, "gap": 1}));
    assert_eq!(told.state(), json!({"8302/1x2/betpawa": 20, "8303/1x2/betpawa": 30}), "the old state is dropped");
    assert_eq!(told.data[3..], [json!(20), json!(30), json!("after")]);

    app.odds("8303/1x2/betpawa", 31).await;
    told.until(7, &mut browser).await;
    assert_eq!(told.state(), json!({"8302/1x2/betpawa": 20, "8303/1x2/betpawa": 31}), "it is live again");
    assert_eq!((told.connections, told.farewells), (2, 1));
    assert_eq!(told.last_id(), app.manager.position().to_string());
    browser.end().await;
    app.connections(0).await;
}

#[tokio::test]
async fn a_page_whose_connection_is_cut_gets_every_message_once() {
    let Some(mut browser) = Page::start().await else { return };
    let app = App::start().await;
    let port = Port::free();
    let wire = Wire::open(&port, app.address, u64::MAX);
    browser.open(&port.url("/healthz"), &port.url(TOPICS)).await;
    let mut told = Told::default();
    told.until(0, &mut browser).await;
    // Every second message is keyless, and each key changes again and again.
    let messages: Vec<Value> = (0..400)
        .map(|at| match at % 2 {
            0 => json!({"topic": "odds_updates", "key": format!("{}/1x2/betpawa", at % 20), "data": at}),
            _ => json!({"topic": "scrape_progress", "data": at}),
        })
        .collect();
    let (live, missed) = messages.split_at(20);
    app.publish(&json!(live)).await;
    told.until(20, &mut browser).await;
    let last = told.last_id();

    wire.cut().await;
    app.connections(0).await;
    app.publish(&json!(missed)).await;
    // Of the 61 to 65 KiB that were missed, which depends on how many chunks they come in, more than the half: the replay is
    // cut, too, in the middle of a message, and the next brings the rest.
    let wire = Wire::open(&port, app.address, 40 << 10);
    told.until(400, &mut browser).await;
    assert_eq!(json!(told.data), json!((0..400).collect::<Vec<_>>()));
    assert_eq!(told.connections, 3);
    assert_eq!(json!(told.follower.modes), json!({"replayed": 4}), "twice for each of the two topics");
    let [first, second, third] = [browser.response().await, browser.response().await, browser.response().await];
    assert_eq!((first, second), ((200, None), (200, Some(last.clone()))));
    let third = third.1.expect("it resumes");
    assert!(third != last && third != told.last_id(), "the second cut was in the middle: {third}");

    app.odds("live", "again").await;
    told.until(401, &mut browser).await;
    browser.end().await;
    app.connections(0).await;
    wire.cut().await;
}

#[tokio::test]
async fn pages_of_the_same_host_connect_and_others_only_where_they_are_allowed() {
    let Some(mut browser) = Page::start().await else { return };
    let app = App::start().await;
    let same = app.url("/healthz");
    // To a browser another name is another origin.
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
    assert_eq!(browser.next("error").await["ready_state"], 2, "it is closed, and does not try again");
    browser.open(&foreign, &websocket).await;
    let refused = browser.next("refused").await;
    assert!(refused["detail"].as_str().unwrap().ends_with("403"), "{refused}");
    assert_eq!(browser.next("close").await["ready_state"], 3);
    browser.end().await;
    app.connections(0).await;
}

//! Clients connect, stall, disconnect and resume at random while messages flow. The follower checks each message
//! against the contract. At the end, the state of each client equals the server's state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::follower::Follower;
use crate::harness::recording::{self, Line};
use crate::harness::{App, narrow_socket, sse, within, ws};

/// A connection over either transport.
enum Client {
    WebSocket(Box<ws::Client>),
    Events(Box<sse::Client>),
}

impl Client {
    async fn connect(address: SocketAddr, events: bool, query: &str, follower: &mut Follower) -> Self {
        let socket = narrow_socket(address).await;
        let (client, ack) = if events {
            let client = sse::Client::over(socket, query).await;
            let ack = client.ack.to_string();
            (Self::Events(Box::new(client)), ack)
        } else {
            let client = ws::Client::over(socket, address, query).await;
            let ack = client.ack.to_string();
            (Self::WebSocket(Box::new(client)), ack)
        };
        follower.take(&ack);
        client
    }

    async fn text(&mut self) -> String {
        match self {
            Self::WebSocket(client) => client.text().await.to_string(),
            Self::Events(client) => client.text().await,
        }
    }
}

/// The data of the last message of a run. It has no key, so every client receives it.
const END: &str = "\"end\"";

/// Follows the messages to the last one, with random cuts and stalls. `published` is the number of published messages.
async fn follow(address: SocketAddr, events: bool, mut random: Rng, mut published: watch::Receiver<usize>) -> Follower {
    let mut follower = Follower::default();
    loop {
        let query = follower.resume();
        let mut client = Client::connect(address, events, &query, &mut follower).await;
        loop {
            for _ in 0..random.usize(1..300) {
                follower.take(&client.text().await);
                if follower.keyless.as_deref() == Some(END) && follower.is_live() {
                    return follower;
                }
            }
            if random.u8(..4) == 0 {
                break;
            }
            let enough = *published.borrow() + random.usize(0..1500);
            // The stall also ends when the publisher has finished.
            let _ = within(published.wait_for(|count| *count >= enough)).await;
        }
    }
}

fn random_batch(random: &mut Rng) -> Vec<Value> {
    let message = |random: &mut Rng| {
        let padding = "x".repeat(random.usize(0..2000));
        let key = format!("{}/{}", random.u8(..20), random.u8(..10));
        match random.u8(..10) {
            0 => json!({"topic": "scrape_progress", "data": padding}),
            1 => json!({"topic": "odds_updates", "key": key, "data": null}),
            _ => json!({"topic": "odds_updates", "key": key, "data": [random.u16(..), padding]}),
        }
    };
    (0..random.usize(1..30)).map(|_| message(random)).collect()
}

fn state(app: &App) -> BTreeMap<String, String> {
    let (_, messages) = app.manager.snapshot(&"odds_updates".parse().unwrap());
    let entry = |message: &Arc<oddswire::message::Message>| {
        Some((message.key()?.to_string(), String::from_utf8(message.data().to_vec()).unwrap()))
    };
    messages.iter().filter_map(entry).collect()
}

/// Runs the test with one seed, and returns how often each catch-up mode was announced.
async fn run(seed: u64) -> BTreeMap<String, usize> {
    let app = App::with(|config| {
        // Test two causes of falling behind: the limit of one client's outbox, and the memory budget of all outboxes.
        config.outbox_bytes = if seed.is_multiple_of(2) { 16 << 10 } else { 48 << 10 };
        config.memory_budget = 48 << 10;
        config.history_messages = 400;
        config.tombstone_age = std::time::Duration::from_millis(300);
    })
    .await;
    let mut random = Rng::with_seed(seed);
    let (count, published) = watch::channel(0);
    let mut followers = JoinSet::new();
    for number in 0..12 {
        followers.spawn(follow(app.address, number % 3 == 0, random.fork(), published.clone()));
    }
    app.connections(12).await;
    while *count.borrow() < 5000 {
        let batch = random_batch(&mut random);
        app.publish(&json!(batch)).await;
        count.send_modify(|count| *count += batch.len());
    }
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
    drop(count);
    let mut modes = BTreeMap::new();
    while let Some(follower) = within(followers.join_next()).await {
        let follower = follower.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(follower.state, state(&app), "seed {seed}");
        for (mode, times) in follower.modes {
            *modes.entry(mode).or_default() += times;
        }
    }
    app.connections(0).await;
    assert!(app.manager.is_empty());
    modes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cut_at_random_end_with_the_servers_state() {
    let seeds = std::env::var("TEST_SEEDS").map_or(4, |seeds| seeds.parse().expect("TEST_SEEDS is a number"));
    let first = fastrand::u64(..);
    let mut modes: BTreeMap<String, usize> = BTreeMap::new();
    for seed in first..first.wrapping_add(seeds) {
        for (mode, times) in run(seed).await {
            *modes.entry(mode).or_default() += times;
        }
    }
    eprintln!("seeds from {first}: {modes:?}");
    assert!(modes["conflated"] > 0 && modes["replayed"] > 0, "the runs include catch-ups: {modes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_clients_cut_at_random_end_with_the_recorded_state() {
    let Some(bursts) = recording::bursts() else { return };
    let app = App::start().await;
    let lines: Vec<Line> = bursts.concat();
    let (count, published) = watch::channel(0);
    let mut random = Rng::with_seed(fastrand::u64(..));
    let mut followers = JoinSet::new();
    for number in 0..100 {
        followers.spawn(follow(app.address, number % 4 == 0, random.fork(), published.clone()));
    }
    app.connections(100).await;
    for burst in &bursts {
        let answer = app.post("/api/publish", "application/x-ndjson", recording::ndjson(burst)).await;
        assert_eq!(answer.body["accepted"], burst.len(), "{}", answer.text);
        count.send_modify(|count| *count += burst.len());
    }
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
    drop(count);
    let last: BTreeMap<String, String> = lines.into_iter().map(|line| (line.key, line.data)).collect();
    assert_eq!(last.len(), 3260);
    while let Some(follower) = within(followers.join_next()).await {
        assert_eq!(follower.expect("the follower's checks pass").state, last);
    }
}

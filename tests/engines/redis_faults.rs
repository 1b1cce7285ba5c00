//! Three nodes on one Redis, with random faults. Nodes and Redis are killed, paused and restarted by the test. Their
//! connections are cut and stalled. Redis loses all of its data, or the newest part. Clients move from node to node.
//!
//! Each client gets every message once and in order, and learns of each gap (the follower checks this). All clients get
//! the same bytes at the same position. At the end, the state of each client equals the state in Redis.
//!
//! `TEST_FAULTS` sets the number of faults in each test.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt as _;
use oddswire::message::Position;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::follower::Follower;
use crate::harness::link::{Flow, Link};
use crate::harness::process::{Process, TOKEN};
use crate::harness::program::Port;
use crate::harness::redis::Redis;
use crate::harness::within;

const NODES: usize = 3;
const CLIENTS: usize = 12;
const PUBLISHERS: usize = 4;
const KEYS: usize = 20;
/// The timeout of each request. A node that is not paused always answers sooner.
const ANSWER: Duration = Duration::from_secs(8);
const END: &str = "\"end\"";

/// A fault that the test causes.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillNode,
    PauseNode,
    CutLink,
    StallLink,
    KillRedis,
    PauseRedis,
    Flush,
    LoseData,
    /// Redis restarts with older data, like a replica that lacks the newest writes.
    LoseEnd,
}

/// The faults after which no acknowledged message may be missing.
const HARMLESS: [Fault; 6] =
    [Fault::KillNode, Fault::PauseNode, Fault::CutLink, Fault::StallLink, Fault::KillRedis, Fault::PauseRedis];
const ALL: [Fault; 9] = [
    Fault::KillNode,
    Fault::PauseNode,
    Fault::CutLink,
    Fault::StallLink,
    Fault::KillRedis,
    Fault::PauseRedis,
    Fault::Flush,
    Fault::LoseData,
    Fault::LoseEnd,
];

/// The messages that clients received, by position. All clients must receive the same message at a position.
#[derive(Default)]
struct Tape(Mutex<BTreeMap<(u64, u64), String>>);

impl Tape {
    fn note(&self, text: &str) {
        let message: Value = serde_json::from_str(text).expect("the server sends JSON");
        let Some(id) = message["id"].as_str() else { return };
        let id: Position = id.parse().unwrap();
        let mut tape = self.0.lock().unwrap();
        let known = tape.entry((id.epoch, id.offset)).or_insert_with(|| text.to_owned());
        assert_eq!(known, text, "the same message at the same position");
    }

    /// How many of the received messages have each value.
    fn values(&self) -> HashMap<String, usize> {
        let mut values = HashMap::new();
        for text in self.0.lock().unwrap().values() {
            let message: Value = serde_json::from_str(text).unwrap();
            *values.entry(message["data"].to_string()).or_default() += 1;
        }
        values
    }
}

/// The state that all tasks of a run share.
struct Stage {
    addresses: Vec<SocketAddr>,
    tape: Tape,
    /// The number of attempts to publish. The test waits for a number of attempts, not for a time.
    attempts: watch::Sender<usize>,
    /// True after the last fault. The publishers then stop.
    over: watch::Sender<bool>,
}

impl Stage {
    fn any(&self, random: &mut Rng) -> SocketAddr {
        self.addresses[random.usize(..self.addresses.len())]
    }

    /// Waits until the publishers have made this many more attempts.
    async fn pass(&self, count: usize) {
        let mut attempts = self.attempts.subscribe();
        let until = *attempts.borrow() + count;
        within(attempts.wait_for(|attempts| *attempts >= until)).await.expect("the sender belongs to the same stage");
    }
}

/// Follows the messages up to the last one, and moves from node to node.
async fn follow(stage: Arc<Stage>, mut random: Rng) -> Follower {
    let mut follower = Follower::default();
    loop {
        let address = stage.any(&mut random);
        let Ok(Ok(socket)) = timeout(ANSWER, TcpStream::connect(address)).await else { continue };
        let url = format!("ws://{address}/api/ws?{}", follower.resume());
        // A starting node refuses the handshake, and a paused node does not answer.
        let Ok(Ok((mut client, _))) = timeout(ANSWER, tokio_tungstenite::client_async(url, socket)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        for _ in 0..random.usize(1..2000) {
            match timeout(ANSWER, client.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    stage.tape.note(&text);
                    follower.take(&text);
                    if follower.keyless.as_deref() == Some(END) && follower.is_live() {
                        return follower;
                    }
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                _ => break,
            }
        }
    }
}

/// Publishes batches, and repeats each batch until a node accepts it. Returns the acknowledged values.
async fn publish(stage: Arc<Stage>, publisher: usize, mut random: Rng) -> Vec<String> {
    let http = reqwest::Client::builder().timeout(ANSWER).build().unwrap();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if *stage.over.borrow() {
            break;
        }
        let values: Vec<String> = (0..random.usize(1..6)).map(|at| format!("{publisher}-{number}-{at}")).collect();
        let message = |value: &String| {
            let key = format!("{publisher}/{}", fastrand::usize(..KEYS));
            json!({"topic": "odds_updates", "key": key, "data": value})
        };
        let batch = json!(values.iter().map(message).collect::<Vec<_>>()).to_string();
        loop {
            let url = format!("http://{}/api/publish", stage.any(&mut random));
            let request = http.post(url).bearer_auth(TOKEN).header("content-type", "application/json");
            let request = request.header("idempotency-key", format!("{publisher}-{number}")).body(batch.clone());
            let answer = request.send().await;
            stage.attempts.send_modify(|attempts| *attempts += 1);
            match answer {
                Ok(answer) if answer.status() == 200 => break,
                Ok(answer) => assert_eq!(answer.status(), 503, "{:?}", answer.text().await),
                // The node was killed or is paused, so try again.
                Err(_) => tokio::task::yield_now().await,
            }
        }
        acknowledged.extend(values);
    }
    acknowledged
}

/// The nodes, and the links between them and Redis.
struct Nodes {
    ports: Vec<Port>,
    links: Vec<Link>,
    running: Vec<Option<Process>>,
}

impl Nodes {
    async fn start(redis: &Redis) -> Self {
        let mut nodes = Self { ports: Vec::new(), links: Vec::new(), running: Vec::new() };
        for at in 0..NODES {
            nodes.ports.push(Port::free());
            nodes.links.push(Link::to(redis.address()).await);
            nodes.running.push(None);
            nodes.run(at).await;
        }
        nodes
    }

    async fn run(&mut self, at: usize) {
        let (listen, url) = (self.ports[at].address.to_string(), format!("redis://{}", self.links[at].address));
        let environment =
            [("ODDSWIRE_LISTEN", listen.as_str()), ("ODDSWIRE_ENGINE", "redis"), ("ODDSWIRE_REDIS_URL", &url)];
        self.running[at] = Some(Process::serve(&environment).await);
    }

    fn signal(&self, at: usize, signal: &str) {
        self.running[at].as_ref().expect("the node runs").signal(signal);
    }

    async fn kill(&mut self, at: usize) {
        let process = self.running[at].take().expect("the node runs");
        process.signal("KILL");
        drop(process.end().await);
    }
}

async fn cause(fault: Fault, redis: &mut Redis, nodes: &mut Nodes, stage: &Stage, random: &mut Rng) {
    let (at, attempts) = (random.usize(..NODES), random.usize(..60));
    match fault {
        Fault::KillNode => {
            nodes.kill(at).await;
            stage.pass(attempts).await;
            nodes.run(at).await;
        }
        Fault::PauseNode => {
            nodes.signal(at, "STOP");
            // Requests to the paused node last until their timeout, so wait for fewer attempts.
            stage.pass(attempts / 10).await;
            nodes.signal(at, "CONT");
        }
        Fault::CutLink | Fault::StallLink => {
            nodes.links[at].set(if matches!(fault, Fault::CutLink) { Flow::Cut } else { Flow::Stalled });
            stage.pass(attempts).await;
            nodes.links[at].set(Flow::Open);
        }
        Fault::KillRedis => {
            redis.kill();
            stage.pass(attempts).await;
            redis.resume().await;
        }
        Fault::PauseRedis => {
            redis.signal("STOP");
            stage.pass(attempts / 10).await;
            redis.signal("CONT");
        }
        Fault::Flush => redis.ask::<()>(&["FLUSHALL"]).await,
        Fault::LoseData => {
            redis.kill();
            std::fs::remove_dir_all(redis.directory.0.join("appendonlydir")).unwrap();
            stage.pass(attempts).await;
            redis.resume().await;
        }
        Fault::LoseEnd => {
            redis.remember_running();
            stage.pass(attempts).await;
            redis.lose_end();
            stage.pass(random.usize(..60)).await;
            redis.resume().await;
        }
    }
}

/// The state of `odds_updates` in Redis, without deleted keys.
async fn state_in_redis(redis: &Redis) -> BTreeMap<String, String> {
    let values: BTreeMap<String, String> = redis.ask(&["HGETALL", "{oddswire}:state:odds_updates"]).await;
    let data = |(key, value): (String, String)| (key, value.split_once('\n').expect("a value").1.to_owned());
    values.into_iter().filter(|(key, _)| !key.is_empty()).map(data).filter(|(_, data)| data != "null").collect()
}

async fn run(faults: &[Fault], seed: u64) -> Option<(Arc<Stage>, Vec<String>)> {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]).await?;
    let mut nodes = Nodes::start(&redis).await;
    let mut random = Rng::with_seed(seed);
    let stage = Arc::new(Stage {
        addresses: nodes.ports.iter().map(|port| port.address).collect(),
        tape: Tape::default(),
        attempts: watch::Sender::new(0),
        over: watch::Sender::new(false),
    });
    let (mut followers, mut publishers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..CLIENTS {
        followers.spawn(follow(Arc::clone(&stage), random.fork()));
    }
    for publisher in 0..PUBLISHERS {
        publishers.spawn(publish(Arc::clone(&stage), publisher, random.fork()));
    }
    stage.pass(100).await;
    let count = std::env::var("TEST_FAULTS").map_or(10, |count| count.parse().expect("TEST_FAULTS is a number"));
    for _ in 0..count {
        let fault = faults[random.usize(..faults.len())];
        eprintln!("seed {seed}: {fault:?}");
        cause(fault, &mut redis, &mut nodes, &stage, &mut random).await;
        stage.pass(random.usize(..150)).await;
    }
    stage.over.send_replace(true);
    let mut acknowledged = Vec::new();
    while let Some(taken) = within(publishers.join_next()).await {
        acknowledged.extend(taken.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    }
    let end = r#"{"topic":"scrape_progress","data":"end"}"#;
    within(async { while nodes.running[0].as_ref().unwrap().post("/api/publish", TOKEN, end).await.status != 200 {} })
        .await;
    let kept = state_in_redis(&redis).await;
    let mut modes: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(follower) = within(followers.join_next()).await {
        let follower = follower.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(follower.state, kept, "seed {seed}: the client has the state that Redis has");
        for (mode, times) in follower.modes {
            *modes.entry(mode).or_default() += times;
        }
    }
    for node in nodes.running.iter().flatten() {
        let url = format!("http://{}/api/topics/odds_updates/state", node.address);
        // A node that has just started may not be connected to Redis yet.
        let answer = within(async {
            loop {
                let answer = reqwest::get(&url).await.expect("the node answers").text().await.unwrap();
                let answer: Value = serde_json::from_str(&answer).unwrap();
                if answer["items"].is_array() {
                    return answer;
                }
            }
        });
        let answer = answer.await;
        let items = answer["items"].as_array().unwrap().iter();
        let served: BTreeMap<String, String> =
            items.map(|item| (item["key"].as_str().unwrap().to_owned(), item["data"].to_string())).collect();
        assert_eq!(served, kept, "seed {seed}");
    }
    eprintln!("seed {seed}: {} messages acknowledged, catch-up modes {modes:?}", acknowledged.len());
    Some((stage, acknowledged))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_or_duplicated_by_faults_without_data_loss() {
    let seed = fastrand::u64(..);
    let Some((stage, acknowledged)) = run(&HARMLESS, seed).await else { return };
    let values = stage.tape.values();
    for value in &acknowledged {
        assert_eq!(values.get(&json!(value).to_string()), Some(&1), "seed {seed}: {value}");
    }
    let epochs =
        stage.tape.0.lock().unwrap().keys().map(|(epoch, _)| *epoch).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(epochs.len(), 1, "seed {seed}: the sequence continued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_end_with_the_state_of_redis_after_data_loss() {
    let Some((stage, acknowledged)) = run(&ALL, fastrand::u64(..)).await else { return };
    let values = stage.tape.values();
    assert!(acknowledged.iter().any(|value| values.contains_key(&json!(value).to_string())));
}

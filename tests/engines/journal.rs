//! Tests of `engine=journal`: restarts, kills, full disks and damaged files.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oddswire::config::{Config, EngineKind, SyncWhen};
use oddswire::message::Position;
use oddswire::server::Server;
use redb::{Database, TableDefinition};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::process::{self, Process, run};
use crate::harness::program::Directory;
use crate::harness::wire::Wire;
use crate::harness::{App, TOKEN, eventually, within, ws};

/// Starts a server on the directory. The server syncs each publish to the disk.
async fn start_on(directory: &Directory, change: impl FnOnce(&mut Config)) -> App {
    App::with(|config| {
        config.engine = EngineKind::Journal;
        config.data_dir = Some(directory.0.clone());
        config.sync = SyncWhen::Always;
        change(config);
    })
    .await
}

fn file(directory: &Directory) -> PathBuf {
    directory.0.join("oddswire.redb")
}

/// All messages of a client's catch-up from this position. Control messages come without timestamps, because these
/// vary.
async fn catch_up(app: &App, since: &str, topics: &str) -> Vec<Value> {
    let mut client = app.ws(&format!("since={since}&topics={topics}")).await;
    let mut received = Vec::new();
    loop {
        let mut message = client.next().await;
        if message["id"].is_null() {
            message.as_object_mut().unwrap().remove("timestamp");
        }
        let end = message["type"] == "caught_up";
        received.push(message);
        if end {
            return received;
        }
    }
}

/// The server's answers to every read: topics, states, and a catch-up from each position.
async fn all_answers(app: &App) -> Vec<Value> {
    let mut all = vec![app.get("/api/topics").await.body["topics"].clone()];
    for topic in ["odds_updates", "scrape_progress"] {
        let state = app.get(&format!("/api/topics/{topic}/state")).await;
        all.push(json!([state.header("etag"), state.body]));
    }
    let position = app.manager.position();
    for offset in 0..=position.offset {
        for topics in ["odds_updates,scrape_progress", "odds_updates/8301"] {
            all.push(json!(catch_up(app, &Position { offset, ..position }.to_string(), topics).await));
        }
    }
    all.push(json!(catch_up(app, "snapshot", "odds_updates,scrape_progress").await));
    for topic in all[0].as_array_mut().unwrap() {
        topic.as_object_mut().unwrap().remove("subscribers");
    }
    all
}

#[tokio::test]
async fn all_reads_give_the_same_answers_after_a_restart() {
    let directory = Directory::new();
    let forgetful = |config: &mut Config| config.history_messages = 5;
    let mut before = None;
    for round in 0..4 {
        let app = start_on(&directory, forgetful).await;
        if let Some(before) = &before {
            assert_eq!(&all_answers(&app).await, before);
        }
        for at in 0..7 {
            app.odds(&format!("830{}/1x2/{}", at % 3, at % 2), json!({"round": round, "price": at})).await;
            app.publish(
                &json!({"topic": "scrape_progress", "type": "progress", "data": format!("{round} \u{2028} {at}")}),
            )
            .await;
        }
        app.odds("8300/1x2/0", Value::Null).await;
        app.publish(&json!([
            {"topic": "odds_updates", "key": "later", "data": round, "expires_at": "2099-01-01T00:00:00Z"},
            {"topic": "odds_updates", "key": "8301/1x2/1", "data": {"round": round, "price": 1}},
        ]))
        .await;
        let all = all_answers(&app).await;
        let text = json!(all).to_string();
        for mode in ["replayed", "conflated", "snapshot"] {
            assert!(text.contains(mode), "the answers include the mode {mode}");
        }
        before = Some(all);
        assert!(app.stop().await);
    }
}

#[tokio::test]
async fn client_resumes_after_a_restart_without_a_gap() {
    let directory = Directory::new();
    let app = start_on(&directory, |_| {}).await;
    let mut client = app.ws("").await;
    app.odds("8301", 1).await;
    let last = client.expect("odds_updates").await["id"].as_str().unwrap().to_owned();
    drop(client);
    app.odds("8301", 2).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "missed"})).await;
    assert!(app.stop().await);

    let app = start_on(&directory, |_| {}).await;
    let mut client = app.ws(&format!("since={last}")).await;
    let told = client.expect("catch_up").await["data"]["topics"].clone();
    let replayed = json!({"mode": "replayed", "skipped": 0});
    assert_eq!(told, json!({"odds_updates": replayed, "scrape_progress": replayed}));
    assert_eq!(client.expect("odds_updates").await["data"], 2);
    assert_eq!(client.expect("scrape_progress").await["data"], "missed");
    client.expect("caught_up").await;
    let position = app.odds("8301", 3).await["position"].clone();
    assert_eq!(client.expect("odds_updates").await["id"], position);
    let [last, position]: [Position; 2] = [last.parse().unwrap(), position.as_str().unwrap().parse().unwrap()];
    assert_eq!(position, Position { offset: last.offset + 3, ..last }, "the sequence continues across the restart");
}

#[tokio::test]
async fn idempotency_keys_survive_a_restart() {
    let directory = Directory::new();
    let publish = async |app: &App, data: u64| {
        let body = json!({"topic": "scrape_progress", "data": data}).to_string();
        let request = app.request(reqwest::Method::POST, "/api/publish").bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").header("idempotency-key", "once").body(body);
        crate::harness::Answer::of(request).await
    };
    let app = start_on(&directory, |_| {}).await;
    let first = publish(&app, 1).await;
    assert_eq!(first.status, 200);
    app.publish(&json!({"topic": "scrape_progress", "data": "between"})).await;
    assert!(app.stop().await);
    let app = start_on(&directory, |_| {}).await;
    assert_eq!(publish(&app, 1).await.body, first.body);
    assert_eq!(publish(&app, 2).await.code(), "idempotency_key_reused");
    assert_eq!(app.manager.position().offset, 2);
}

#[tokio::test]
async fn key_expires_after_a_restart_and_stays_deleted() {
    let directory = Directory::new();
    let app = start_on(&directory, |_| {}).await;
    let position: oddswire::message::Position =
        app.odds("8301", 1).await["position"].as_str().unwrap().parse().unwrap();
    let expiring = |soon: &str| json!({"topic": "odds_updates", "key": "8301", "data": 1, "expires_at": soon});
    app.publish_expiring(expiring).await;
    assert!(app.stop().await);
    let app = start_on(&directory, |_| {}).await;
    let mut client = app.ws(&format!("since={position}")).await;
    client.expect("catch_up").await;
    let mut deletion = client.next().await;
    if deletion["type"] == "caught_up" {
        deletion = client.next().await;
    }
    assert_eq!((&deletion["key"], &deletion["data"]), (&json!("8301"), &Value::Null));
    assert!(app.stop().await);
    let app = start_on(&directory, |_| {}).await;
    assert_eq!(app.get("/api/topics/odds_updates/state").await.body["items"], json!([]));
    assert_eq!(app.manager.position().offset, position.offset + 1);
}

#[tokio::test]
async fn messages_of_a_removed_topic_return_when_it_is_added_again() {
    let directory = Directory::new();
    let app = start_on(&directory, |_| {}).await;
    app.odds("8301", 1).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "x"})).await;
    assert!(app.stop().await);
    let app = start_on(&directory, |config| config.topics = "scrape_progress".parse().unwrap()).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "y"})).await;
    assert!(app.stop().await);
    let app = start_on(&directory, |_| {}).await;
    let state = app.get("/api/topics/odds_updates/state").await.body;
    assert_eq!((state["items"].as_array().unwrap().len(), &state["items"][0]["data"]), (1, &json!(1)));
    assert_eq!(app.manager.position().offset, 3);
}

#[tokio::test]
async fn file_does_not_grow_beyond_the_kept_messages() {
    let directory = Directory::new();
    let app = start_on(&directory, |config| {
        config.history_messages = 200;
        config.sync = SyncWhen::Interval(Duration::from_millis(5));
    })
    .await;
    let batch = |round: u64| -> Vec<Value> {
        let one = |at: u64| {
            let data = format!("{round:0>1000}");
            json!([{"topic": "odds_updates", "key": format!("{at}"), "data": data},
                {"topic": "scrape_progress", "data": data}])
        };
        (0..50).flat_map(|at| one(at).as_array().unwrap().clone()).collect()
    };
    let size = || std::fs::metadata(file(&directory)).unwrap().len();
    let mut early = 0;
    for round in 0..200 {
        app.publish(&json!(batch(round))).await;
        if round == 40 {
            early = size();
        }
    }
    // The server keeps only 450 of the 20,000 published messages, of about 1,200 bytes each.
    assert!(size() < 6 << 20, "{} bytes", size());
    assert!(size() <= early * 2, "{} bytes, and {early} early on", size());
    assert!(app.stop().await);
}

// Kills of the server.

/// The answers that all publishers have received.
#[derive(Default)]
struct Known {
    /// The data of the last message of each acknowledged batch, by the offset of that message.
    acknowledged: Mutex<BTreeMap<u64, String>>,
    /// The number of answers since the last start of the server.
    answers: AtomicUsize,
}

const PUBLISHERS: usize = 4;

/// Publishes batches until the server is killed. Returns the number of the batch that got no answer. The next round
/// publishes that batch again.
async fn publish_until_killed(address: std::net::SocketAddr, known: Arc<Known>, publisher: usize, from: u64) -> u64 {
    let client = reqwest::Client::new();
    for number in from.. {
        let count = number % 5 + 1;
        let data = |at| format!("{publisher}/{number}/{at}");
        let batch: Vec<Value> = (1..=count)
            .map(|at| match at % 2 {
                0 => json!({"topic": "odds_updates", "key": format!("{publisher}/{at}"), "data": data(at)}),
                _ => json!({"topic": "scrape_progress", "data": data(at)}),
            })
            .collect();
        let request = client
            .post(format!("http://{address}/api/publish"))
            .bearer_auth(process::TOKEN)
            .header("content-type", "application/json")
            .header("idempotency-key", format!("{publisher}-{number}"))
            .body(json!(batch).to_string());
        let Ok(response) = request.send().await else { return number };
        assert_eq!(response.status(), 200);
        let Ok(text) = response.text().await else { return number };
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["accepted"], count);
        let position: Position = answer["position"].as_str().unwrap().parse().unwrap();
        known.acknowledged.lock().unwrap().insert(position.offset, data(count));
        known.answers.fetch_add(1, Ordering::SeqCst);
    }
    unreachable!("the range of numbers is endless")
}

/// Receives messages until the server is killed, and returns the offset of the last message.
async fn listen_until_killed(mut client: ws::Client) -> u64 {
    let mut last = 0;
    while let Some(Ok(frame)) = client.frame().await {
        let message: Value = serde_json::from_str(frame.to_text().unwrap_or("null")).unwrap_or_default();
        if let Some(id) = message["id"].as_str() {
            last = id.parse::<Position>().unwrap().offset;
        }
    }
    last
}

/// The data of all messages after a position. Checks that no message is missing.
async fn replay(process: &Process, since: Position) -> Vec<String> {
    let mut wire = Wire::connect(process.address, &format!("since={since}")).await;
    wire.expect("connection_ack").await;
    let told = wire.expect("catch_up").await["data"]["topics"].clone();
    for topic in ["odds_updates", "scrape_progress"] {
        assert_eq!(told[topic], json!({"mode": "replayed", "skipped": 0}));
    }
    let mut all = Vec::new();
    loop {
        let (_, payload) = wire.frame().await;
        let message: Value = serde_json::from_slice(&payload).unwrap();
        if message["type"] == "caught_up" {
            return all;
        }
        let next = Position { offset: since.offset + all.len() as u64 + 1, ..since };
        assert_eq!(message["id"], next.to_string(), "no gap, and one epoch");
        all.push(message["data"].as_str().unwrap().to_owned());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_kills_exactly_once() {
    let kills: usize = std::env::var("TEST_KILLS").map_or(12, |kills| kills.parse().expect("a number"));
    let directory = Directory::new();
    let path = directory.0.to_str().unwrap();
    let environment = [
        ("ODDSWIRE_ENGINE", "journal"),
        ("ODDSWIRE_DATA_DIR", path),
        ("ODDSWIRE_HISTORY_MESSAGES", "1000000"),
        ("ODDSWIRE_HISTORY_BYTES", "1GiB"),
    ];
    let known = Arc::new(Known::default());
    let mut next = [0; PUBLISHERS];
    let mut since = None;
    let (mut seen, mut in_order) = (HashSet::new(), Vec::new());
    let (mut unanswered, mut delivered) = (0, 0);
    for kill in 0..=kills {
        let process = Process::serve(&environment).await;
        let client = ws::Client::connect(process.address, "").await;
        let position: Position = client.ack["data"]["position"].as_str().unwrap().parse().unwrap();
        assert!(position.offset >= delivered, "every message that a client received still exists");
        let from = *since.get_or_insert(position);
        let new = replay(&process, from).await;
        for data in new {
            assert!(seen.insert(data.clone()), "{data} exists twice");
            in_order.push(data);
        }
        since = Some(position);
        let acknowledged = std::mem::take(&mut *known.acknowledged.lock().unwrap());
        for (offset, data) in &acknowledged {
            let at = usize::try_from(*offset).unwrap() - 1;
            assert_eq!(in_order.get(at), Some(data), "the message is at the acknowledged offset, after kill {kill}");
        }
        unanswered += (in_order.len() as u64).saturating_sub(acknowledged.keys().max().copied().unwrap_or(0));
        if kill == kills {
            break;
        }
        known.answers.store(0, Ordering::SeqCst);
        let listening = tokio::spawn(listen_until_killed(client));
        let mut publishing = JoinSet::new();
        for (publisher, from) in next.iter().copied().enumerate() {
            let (address, known) = (process.address, Arc::clone(&known));
            publishing.spawn(async move { (publisher, publish_until_killed(address, known, publisher, from).await) });
        }
        let enough = fastrand::usize(1..60);
        eventually("publishes are answered", || known.answers.load(Ordering::SeqCst) >= enough).await;
        process.signal("KILL");
        assert_eq!(process.end().await.code, None);
        while let Some(published) = within(publishing.join_next()).await {
            let (publisher, number) = published.unwrap();
            next[publisher] = number;
        }
        delivered = within(listening).await.unwrap();
    }
    let batches: HashSet<&str> = in_order.iter().map(|data| data.rsplit_once('/').unwrap().0).collect();
    for batch in batches {
        let (_, number) = batch.split_once('/').unwrap();
        let count = number.parse::<u64>().unwrap() % 5 + 1;
        assert!((1..=count).all(|at| seen.contains(&format!("{batch}/{at}"))), "{batch} is complete");
    }
    println!("{kills} kills under load, {} messages, {unanswered} of them past the last answer", in_order.len());
}

#[tokio::test]
async fn kill_with_sync_interval_starts_a_new_epoch_but_stop_does_not() {
    let directory = Directory::new();
    let path = directory.0.to_str().unwrap();
    let environment =
        [("ODDSWIRE_ENGINE", "journal"), ("ODDSWIRE_DATA_DIR", path), ("ODDSWIRE_SYNC", "interval:60000")];
    let message = r#"{"topic":"odds_updates","key":"8301","data":1}"#;
    let position = async |process: &Process| -> Position {
        let client = ws::Client::connect(process.address, "").await;
        client.ack["data"]["position"].as_str().unwrap().parse().unwrap()
    };
    let process = Process::serve(&environment).await;
    assert_eq!(process.post("/api/publish", process::TOKEN, message).await.status, 200);
    let first = position(&process).await;
    process.signal("TERM");
    assert_eq!(process.end().await.code, Some(0));

    let process = Process::serve(&environment).await;
    assert_eq!(position(&process).await, first, "a stop syncs all acknowledged messages");
    let more = message.replace("8301", "8302");
    assert_eq!(process.post("/api/publish", process::TOKEN, &more).await.status, 200);
    let lost = position(&process).await;
    process.signal("KILL");
    process.end().await;

    let process = Process::serve(&environment).await;
    let after = position(&process).await;
    assert!(after.epoch > first.epoch && after.offset == 1, "{after} after {lost}");
    let mut client = ws::Client::connect(process.address, &format!("since={lost}&topics=odds_updates")).await;
    assert_eq!(client.expect("catch_up").await["data"]["topics"]["odds_updates"]["mode"], "snapshot");
    let message = client.expect("odds_updates").await;
    assert_eq!(message["id"], Position { offset: 1, ..after }.to_string(), "the ids have the new epoch");
}

// Full disks.

#[tokio::test]
async fn full_disk_refuses_publishes_until_space_is_free() {
    let directory = Directory::new();
    let path = directory.0.to_str().unwrap();
    let environment = [("ODDSWIRE_ENGINE", "journal"), ("ODDSWIRE_DATA_DIR", path)];
    let mut process = Process::with_files_of("unlimited", &environment).await;
    let mut client = ws::Client::connect(process.address, "").await;
    let publish = async |process: &Process, number: usize| {
        let body = json!({"topic": "odds_updates", "key": format!("{number}"), "data": "x".repeat(60_000)});
        process.post("/api/publish", process::TOKEN, &body.to_string()).await
    };
    process.limit_files_to("4000000");
    let mut taken = 0;
    let refused = loop {
        let answer = publish(&process, taken).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert_eq!(client.expect("odds_updates").await["key"], (taken - 1).to_string());
        assert!(taken < 1000, "the limit has no effect");
    };
    assert_eq!((refused.status, refused.header("retry-after").is_empty()), (503, false), "{}", refused.body);
    assert!(refused.detail().contains("no message was accepted"), "{}", refused.detail());
    process.event("journal.failed").await;
    let ready = reqwest::get(format!("http://{}/readyz", process.admin)).await.unwrap();
    assert_eq!(ready.status(), 200, "the server still serves clients");
    let ready: Value = serde_json::from_str(&ready.text().await.unwrap()).unwrap();
    assert_eq!(ready["engine"], "degraded", "{ready}");
    let metrics = reqwest::get(format!("http://{}/metrics", process.admin)).await.unwrap().text().await.unwrap();
    let losses = metrics.lines().find_map(|line| line.strip_prefix("oddswire_engine_losses_total "));
    assert!(losses.is_some_and(|count| count != "0"), "{metrics}");
    client.nothing_came().await;

    process.limit_files_to("unlimited");
    process.event("journal.recovered").await;
    assert_eq!(publish(&process, taken).await.status, 200);
    assert_eq!(client.expect("odds_updates").await["key"], taken.to_string());
    process.signal("KILL");
    process.end().await;
    let process = Process::serve(&environment).await;
    let client = ws::Client::connect(process.address, "").await;
    let position: Position = client.ack["data"]["position"].as_str().unwrap().parse().unwrap();
    assert_eq!(position.offset, taken as u64 + 1, "exactly the acknowledged messages exist");
}

#[tokio::test]
async fn start_on_a_full_disk_serves_reads_and_publishes_later() {
    let directory = Directory::new();
    let path = directory.0.to_str().unwrap();
    let environment = [("ODDSWIRE_ENGINE", "journal"), ("ODDSWIRE_DATA_DIR", path)];
    let message =
        |number: usize| json!({"topic": "odds_updates", "key": number.to_string(), "data": number}).to_string();
    let mut taken = 0;
    // The rounds start on a new directory, on a file that a stop has closed, and on a file of a killed server.
    for end in ["TERM", "KILL", "KILL"] {
        let mut process = Process::with_files_of("0", &environment).await;
        let mut client = ws::Client::connect(process.address, "since=snapshot&topics=odds_updates").await;
        let position: Position = client.ack["data"]["position"].as_str().unwrap().parse().unwrap();
        assert_eq!(position.offset, taken as u64);
        client.expect("catch_up").await;
        for number in 0..taken {
            assert_eq!(client.expect("odds_updates").await["data"], number, "it serves the messages in the file");
        }
        client.expect("caught_up").await;
        let refused = process.post("/api/publish", process::TOKEN, &message(taken)).await;
        assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, "engine_unavailable", "1"));
        let ready = reqwest::get(format!("http://{}/readyz", process.admin)).await.unwrap();
        assert_eq!(ready.status(), 200, "the server still serves clients");
        let ready: Value = serde_json::from_str(&ready.text().await.unwrap()).unwrap();
        assert_eq!(ready["engine"], "degraded", "{ready}");

        process.limit_files_to("unlimited");
        process.event("journal.recovered").await;
        for _ in 0..3 {
            assert_eq!(process.post("/api/publish", process::TOKEN, &message(taken)).await.status, 200);
            assert_eq!(client.expect("odds_updates").await["data"], taken);
            taken += 1;
        }
        process.signal(end);
        let log = process.end().await.stderr;
        let failed = log.lines().find(|line| line.contains("journal.failed")).expect("the failure is logged");
        let failed: Value = serde_json::from_str(failed).unwrap();
        assert_eq!(failed["file"], file(&directory).to_str().unwrap());
        assert!(failed["what"].as_str().unwrap().contains("full"), "{failed}");
    }
}

// Unusable files.

/// A directory with a journal file that contains messages and that the server has closed.
async fn filled_directory() -> Directory {
    let directory = Directory::new();
    let app = start_on(&directory, |_| {}).await;
    for at in 0..50 {
        app.odds(&format!("{at}"), format!("{at:0>300}")).await;
    }
    assert!(app.stop().await);
    directory
}

/// Tries to start a server on the directory, and returns its state or the error.
fn try_start_on(directory: &Path) -> Result<Value, String> {
    let mut config = Config::default();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.admin_listen = None;
    config.engine = EngineKind::Journal;
    config.data_dir = Some(directory.to_owned());
    let server =
        Server::bind(config, slog::Logger::root(slog::Discard, slog::o!())).map_err(|error| error.to_string())?;
    let (_, state) = server.manager().snapshot(&"odds_updates".parse().unwrap());
    let data = state.iter().map(|message| String::from_utf8(message.frames().text().to_vec()).unwrap());
    Ok(data.collect::<Vec<_>>().into())
}

/// Checks that no server starts on the directory, that the error names the file and `--reset-data`, and that the file
/// has not changed.
fn check_refused(directory: &Directory, what: &str) -> String {
    let before = std::fs::read(file(directory)).unwrap();
    let error = try_start_on(&directory.0).expect_err(what);
    assert!(error.contains(file(directory).to_str().unwrap()), "{what}: {error}");
    assert!(error.contains("--reset-data") && !error.contains('\n'), "{what}: {error}");
    assert!(std::fs::read(file(directory)).unwrap() == before, "{what}: the file is unchanged");
    error
}

#[tokio::test]
async fn truncated_or_foreign_file_is_refused_and_not_changed() {
    let directory = filled_directory().await;
    let whole = std::fs::read(file(&directory)).unwrap();
    for length in [1, 100, 4096, whole.len() / 2, whole.len() - 4096] {
        std::fs::write(file(&directory), &whole[..length]).unwrap();
        check_refused(&directory, &format!("cut to {length} bytes"));
    }
    std::fs::write(file(&directory), "somebody's notes\n".repeat(1000)).unwrap();
    check_refused(&directory, "a text file");
    std::fs::remove_file(file(&directory)).unwrap();
    let other = Database::create(file(&directory)).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 1).unwrap();
    transaction.commit().unwrap();
    drop(other);
    assert!(check_refused(&directory, "a redb file of another program").contains("not written by oddswire"));
    std::fs::write(file(&directory), "").unwrap();
    assert_eq!(try_start_on(&directory.0), Ok(json!([])), "an empty file counts as new");
}

#[tokio::test]
async fn flipped_byte_is_detected_or_harmless() {
    let directory = filled_directory().await;
    let state = try_start_on(&directory.0).unwrap();
    let whole = std::fs::read(file(&directory)).unwrap();
    let mut found = 0;
    let stride = whole.len() / 60;
    for at in (0..60).map(|part| part * stride + fastrand::usize(..stride)).chain([0, 9, 64, 128, 200]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(file(&directory), &damaged).unwrap();
        match try_start_on(&directory.0) {
            Ok(read) => assert_eq!(read, state, "byte {at} of {}", whole.len()),
            Err(error) => {
                found += 1;
                assert!(error.contains("--reset-data"), "{error}");
                assert!(std::fs::read(file(&directory)).unwrap() == damaged, "the file is unchanged");
            }
        }
    }
    assert!(found > 0, "at least one flipped byte is detected");
}

#[tokio::test]
async fn file_of_a_later_version_is_refused() {
    let directory = filled_directory().await;
    let database = Database::create(file(&directory)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = check_refused(&directory, "a later version");
    assert!(error.contains("format 2") && error.contains("up to 1"), "{error}");
    assert!(error.contains("start the version that wrote it"), "{error}");
}

#[tokio::test]
async fn reset_data_keeps_a_copy_of_the_file_and_starts_empty() {
    let directory = filled_directory().await;
    let damaged = std::fs::read(file(&directory)).unwrap()[..5000].to_vec();
    std::fs::write(file(&directory), &damaged).unwrap();
    let path = directory.0.to_str().unwrap();
    let environment = [("ODDSWIRE_ENGINE", "journal"), ("ODDSWIRE_DATA_DIR", path)];
    let ended = run(&[], &environment).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let failed: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(failed["event"], "server.failed");
    assert_eq!(
        ended.stderr.matches("server.failed").count(),
        ended.stderr.lines().filter(|l| l.contains("ERROR")).count()
    );
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);

    let process = Process::start(&["--reset-data"], &environment).await;
    process.signal("TERM");
    let log = process.end().await.stderr;
    let reset = log.lines().find(|line| line.contains("journal.reset")).expect("the log names the copy");
    let copy = serde_json::from_str::<Value>(reset).unwrap()["copy"].as_str().unwrap().to_owned();
    assert!(std::fs::read(copy).unwrap() == damaged, "the copy equals the damaged file");
    assert_eq!(try_start_on(&directory.0), Ok(json!([])));
}

#[tokio::test]
async fn second_server_on_the_same_directory_does_not_start() {
    let directory = Directory::new();
    let path = directory.0.to_str().unwrap();
    let environment = [("ODDSWIRE_ENGINE", "journal"), ("ODDSWIRE_DATA_DIR", path)];
    let first = Process::serve(&environment).await;
    for arguments in [&[][..], &["--reset-data"]] {
        let second = run(arguments, &environment).await;
        assert_eq!(second.code, Some(1));
        assert!(second.stderr.contains(path) && second.stderr.contains("another oddswire"), "{}", second.stderr);
    }
    assert_eq!(first.publish("no token is set").await, 401);
    first.signal("TERM");
    assert_eq!(first.end().await.code, Some(0));
    let third = Process::serve(&environment).await;
    assert_eq!(third.publish(process::TOKEN).await, 200);
}

#[tokio::test]
async fn invalid_settings_are_reported_in_one_line() {
    let cases: [(&[&str], &str); 6] = [
        (&["--engine=journal"], "data-dir"),
        (&["--engine=journal", "--data-dir="], "data-dir"),
        (&["--reset-data"], "reset-data"),
        (&["--sync=weekly"], "interval:<milliseconds>"),
        (&["--sync=interval:0"], "interval:<milliseconds>"),
        (&["--sync=interval:1h"], "interval:<milliseconds>"),
    ];
    for (arguments, says) in cases {
        let ended = run(arguments, &[]).await;
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(2), 1), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
    }
    let ended = run(&["--engine=journal", "--data-dir=/proc/none"], &[]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("/proc/none"), "{}", ended.stderr);
}

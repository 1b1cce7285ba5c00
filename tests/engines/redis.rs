//! Several nodes on one Redis: shared state, and a Redis that fails, recovers or loses data.

use oddswire::config::EngineKind;
use oddswire::message::Position;
use serde_json::{Value, json};

use crate::harness::process::{Process, TOKEN};
use crate::harness::redis::Redis;
use crate::harness::{App, eventually, within, ws};

/// Arguments that make Redis sync each write to the disk before it answers.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn node(redis: &Redis) -> App {
    App::with(|config| {
        config.engine = EngineKind::Redis;
        config.redis_url = Some(redis.url().parse().unwrap());
    })
    .await
}

fn position(value: &Value) -> Position {
    value.as_str().expect("a position").parse().unwrap()
}

/// Waits until `/readyz` reports that the engine is in this state.
async fn engine_is(app: &App, says: &str) -> Value {
    within(async {
        loop {
            let ready = app.get("/readyz").await;
            if ready.body["engine"] == says {
                return ready.body;
            }
        }
    })
    .await
}

/// Repeats a publish until the node accepts it, for instance until Redis is available again.
async fn publish_until_accepted(app: &App, body: &Value) -> Value {
    let body = body.to_string();
    within(async {
        loop {
            let answer = app.post("/api/publish", "application/json", body.clone()).await;
            if answer.status == 200 {
                return answer.body;
            }
            let says = ["engine_unavailable", "outcome_unknown"];
            assert!(answer.status == 503 && says.contains(&answer.code()), "{}", answer.text);
            assert_eq!(answer.header("retry-after"), "1");
        }
    })
    .await
}

fn odds(key: &str, data: impl Into<Value>) -> Value {
    json!({"topic": "odds_updates", "key": key, "data": data.into()})
}

#[tokio::test]
async fn all_nodes_deliver_the_same_messages_in_the_same_order() {
    let Some(redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await, node(&redis).await];
    let mut clients = Vec::new();
    for app in &nodes {
        clients.push(app.ws("").await);
    }
    let publishes = (0..60_usize).map(|number| {
        let app = &nodes[number % nodes.len()];
        async move { app.publish(&json!([odds(&format!("{}", number % 7), number), odds("x", number)])).await }
    });
    futures_util::future::join_all(publishes).await;
    let mut orders = Vec::new();
    for client in &mut clients {
        let mut order = Vec::new();
        for _ in 0..120 {
            order.push(client.text().await.to_string());
        }
        orders.push(order);
    }
    let offsets: Vec<u64> =
        orders[0].iter().map(|text| position(&serde_json::from_str::<Value>(text).unwrap()["id"]).offset).collect();
    assert_eq!(offsets, (1..=120).collect::<Vec<_>>(), "consecutive offsets from 1");
    assert!(orders.iter().all(|order| *order == orders[0]), "the same bytes in the same order");
    let states = [nodes[0].get(STATE).await.text, nodes[1].get(STATE).await.text, nodes[2].get(STATE).await.text];
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
}

const STATE: &str = "/api/topics/odds_updates/state";

#[tokio::test]
async fn broadcast_reaches_clients_of_every_node_without_a_position() {
    let Some(redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await];
    let mut clients = [nodes[0].ws("").await, nodes[1].ws("").await];
    let answer = nodes[0].post("/api/broadcast", "application/json", r#"{"type":"notice","data":[1, 2]}"#).await;
    assert_eq!((answer.status, &answer.body["connections"]), (200, &json!(1)), "this node's clients count");
    let taken = nodes[1].odds("8301", 1).await;
    let mut notices = Vec::new();
    for client in &mut clients {
        notices.push(client.expect("notice").await);
        assert_eq!(client.expect("odds_updates").await["id"], taken["position"]);
    }
    assert_eq!(notices[0]["data"], json!([1, 2]));
    assert_eq!(notices[0], notices[1], "equal texts let a client with two connections detect the duplicate");
    assert_eq!(position(&taken["position"]).offset, 1);
}

#[tokio::test]
async fn client_resumes_on_another_node_with_the_same_id() {
    let Some(redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await];
    let mut client = nodes[0].ws("").await;
    nodes[0].odds("8301", 1).await;
    let id = client.next().await["id"].as_str().unwrap().to_owned();
    client.close().await;
    for number in 2..5 {
        nodes[number % 2].odds("8301", number).await;
    }
    // The second node may not have read the log up to this position yet.
    let mut client = nodes[1].ws(&format!("since={id}")).await;
    let told = client.expect("catch_up").await;
    let all = json!({"odds_updates": {"mode": "replayed", "skipped": 0}, "scrape_progress": {"mode": "replayed", "skipped": 0}});
    assert_eq!(told["data"]["topics"], all);
    for number in 2..5 {
        assert_eq!(client.next().await["data"], number);
    }
    let newest = nodes[0].odds("8301", 5).await;
    let mut ahead = nodes[1].ws(&format!("since={}", newest["position"].as_str().unwrap())).await;
    assert_eq!(ahead.expect("catch_up").await["data"]["topics"], all, "the node waits for the position");
}

#[tokio::test]
async fn late_node_has_the_same_state_history_and_deletions() {
    let Some(redis) = Redis::start().await else { return };
    let first = node(&redis).await;
    let begin = first.publish(&json!({"topic": "scrape_progress", "type": "phase", "data": "one"})).await;
    for number in 0..50 {
        first.odds(&format!("8301/{number}"), number).await;
    }
    first.publish(&json!([odds("8301/7", Value::Null), odds("8301/8", "new"), odds("é/\"x\"", "quoted")])).await;
    let second = node(&redis).await;
    for path in [STATE, "/api/topics/scrape_progress/state", "/api/topics"] {
        let (one, other) = (first.get(path).await, second.get(path).await);
        assert_eq!(one.text, other.text, "{path}");
        assert_eq!(one.header("etag"), other.header("etag"));
    }
    let query = format!("since={}", begin["position"].as_str().unwrap());
    let mut clients = [first.ws(&query).await, second.ws(&query).await];
    let mut heard = [Vec::new(), Vec::new()];
    for (client, heard) in clients.iter_mut().zip(&mut heard) {
        assert_eq!(client.expect("catch_up").await["data"]["topics"]["odds_updates"]["mode"], "replayed");
        for _ in 0..53 {
            heard.push(client.text().await.to_string());
        }
        client.expect("caught_up").await;
    }
    assert_eq!(heard[0], heard[1], "byte for byte");
}

#[tokio::test]
async fn idempotency_key_works_across_nodes() {
    let Some(redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await];
    let publish = async |app: &App, data: u32| {
        let request = app.request(reqwest::Method::POST, "/api/publish").bearer_auth(crate::harness::TOKEN);
        let body = json!([odds("8301", data), odds("8301", data)]).to_string();
        let request = request.header("idempotency-key", "k").header("content-type", "application/json").body(body);
        crate::harness::Answer::of(request).await
    };
    let first = publish(&nodes[0], 1).await;
    assert_eq!((&first.body["accepted"], &first.body["unchanged"]), (&json!(2), &json!(1)));
    let second = publish(&nodes[1], 1).await;
    assert_eq!((first.status, first.body), (second.status, second.body));
    let other = publish(&nodes[1], 2).await;
    assert_eq!((other.status, other.code()), (409, "idempotency_key_reused"));
    assert_eq!(nodes[0].manager.position().offset, 1);
}

#[tokio::test]
async fn key_expires_once_and_a_renewed_key_stays() {
    let Some(redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await, node(&redis).await];
    let expiring = |key: &str, at: &str| {
        let mut message = odds(key, 1);
        message["expires_at"] = json!(at);
        message
    };
    // On a busy machine the key can expire before the test renews it. The test then starts again with other keys.
    for attempt in 1..=3 {
        let [soon, later, other] = ["soon", "later", "other"].map(|name| format!("{attempt}/{name}"));
        let mut client = nodes[2].ws(&format!("topics=odds_updates/{attempt}")).await;
        nodes[0].publish_expiring(|at| json!([expiring(&soon, at), expiring(&later, at)])).await;
        let renewed = nodes[1].publish(&json!([expiring(&later, "2999-02-06T19:00:00Z")])).await;
        if renewed["unchanged"] != 1 {
            continue;
        }
        for key in [&soon, &later] {
            assert_eq!(client.next().await["key"], **key);
        }
        let gone = client.next().await;
        assert_eq!((&gone["key"], &gone["data"]), (&json!(soon), &Value::Null));
        let after = nodes[0].odds(&other, 1).await;
        assert_eq!(client.next().await["id"], after["position"], "the key was deleted once");
        let deleted = position(&gone["id"]);
        eventually("another node has the deletion", || nodes[1].manager.position().offset >= deleted.offset).await;
        let state = nodes[1].get(STATE).await;
        let mut keys = state.body["items"].as_array().unwrap().iter().filter_map(|item| item["key"].as_str());
        assert!(keys.any(|key| key == later) && !state.text.contains(&soon), "{}", state.text);
        return;
    }
    panic!("the key expired before its renewal in every attempt");
}

#[tokio::test]
async fn client_older_than_removed_tombstones_gets_a_snapshot() {
    let Some(redis) = Redis::start().await else { return };
    let short = async || {
        App::with(|config| {
            config.engine = EngineKind::Redis;
            config.redis_url = Some(redis.url().parse().unwrap());
            config.tombstone_age = std::time::Duration::from_millis(50);
            config.history_messages = 1;
        })
        .await
    };
    let first = short().await;
    let begin = first.odds("stays", 1).await;
    first.odds("goes", 1).await;
    first.publish(&odds("goes", Value::Null)).await;
    first.odds("other", 1).await;
    let fields = async || redis.ask::<u64>(&["HLEN", "{oddswire}:state:odds_updates"]).await;
    within(async { while fields().await != 2 {} }).await;
    eventually("the node removes its tombstones", || {
        first.manager.overview().topics.values().all(|topic| topic.kept.tombstones == 0)
    })
    .await;
    let second = short().await;
    for app in [&first, &second] {
        let mut client = app.ws(&format!("since={}&topics=odds_updates", begin["position"].as_str().unwrap())).await;
        assert_eq!(client.expect("catch_up").await["data"]["topics"]["odds_updates"]["mode"], "snapshot");
    }
}

#[tokio::test]
async fn batch_that_exceeds_state_keys_is_refused_completely() {
    let Some(redis) = Redis::start().await else { return };
    let app = App::with(|config| {
        config.engine = EngineKind::Redis;
        config.redis_url = Some(redis.url().parse().unwrap());
        config.state_keys = 3;
    })
    .await;
    app.publish(&json!([odds("1", 1), odds("2", 1), odds("3", 1), {"topic": "odds_updates", "data": "keyless"}])).await;
    let batch = json!([odds("3", 2), odds("1", Value::Null), odds("4", 1), odds("5", 1)]);
    let refused = app.post("/api/publish", "application/json", batch.to_string()).await;
    assert_eq!((refused.status, refused.code(), &refused.body["error"]["index"]), (400, "state_full", &json!(3)));
    assert_eq!(app.manager.position().offset, 4, "no message of the batch was stored");
    app.publish(&json!([odds("1", Value::Null), odds("4", 1)])).await;
}

#[tokio::test]
async fn batch_larger_than_the_history_reaches_every_node() {
    let Some(redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await];
    let mut clients = [nodes[0].ws("").await, nodes[1].ws("").await];
    let batch: Vec<Value> = (0..5_000).map(|number| odds(&format!("{}", number % 500), number)).collect();
    nodes[0].publish(&json!(batch)).await;
    for client in &mut clients {
        for number in 0..5_000 {
            assert_eq!(client.next().await["data"], number);
        }
    }
}

// Faults of Redis.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_stay_connected_while_redis_is_down() {
    let Some(mut redis) = Redis::with(&DURABLE).await else { return };
    let nodes = [node(&redis).await, node(&redis).await];
    let mut clients = [nodes[0].ws("").await, nodes[1].ws("").await];
    nodes[0].odds("8301", 1).await;
    redis.kill();
    for app in &nodes {
        let degraded = engine_is(app, "degraded").await;
        assert_eq!(degraded["ready"], true, "{degraded}");
        let refused = app.post("/api/publish", "application/json", odds("8301", 2).to_string()).await;
        assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, "engine_unavailable", "1"));
        assert!(refused.detail().starts_with("no message was accepted"), "{}", refused.detail());
        assert_eq!(app.get(STATE).await.body["items"][0]["data"], 1, "the node serves the state");
        let metrics = reqwest::get(format!("http://{}/metrics", app.admin)).await.unwrap().text().await.unwrap();
        assert!(metrics.contains("oddswire_engine_available 0"));
    }
    let mut late = nodes[0].ws("since=snapshot&topics=odds_updates").await;
    late.expect("catch_up").await;
    assert_eq!(late.next().await["data"], 1);
    redis.resume().await;
    for app in &nodes {
        engine_is(app, "ok").await;
    }
    let taken = publish_until_accepted(&nodes[1], &odds("8301", 3)).await;
    assert_eq!(position(&taken["position"]).offset, 2, "the sequence continues");
    for client in &mut clients {
        assert_eq!(client.next().await["data"], 1);
        assert_eq!(client.next().await["data"], 3, "no catch-up comes in between");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_redis_makes_the_outcome_unknown_and_then_recovers() {
    let Some(redis) = Redis::start().await else { return };
    let app = node(&redis).await;
    let mut client = app.ws("").await;
    redis.signal("STOP");
    let refused = app.post("/api/publish", "application/json", odds("8301", 1).to_string()).await;
    assert_eq!((refused.status, refused.code()), (503, "outcome_unknown"));
    assert!(refused.detail().contains("Idempotency-Key"), "{}", refused.detail());
    engine_is(&app, "degraded").await;
    redis.signal("CONT");
    engine_is(&app, "ok").await;
    publish_until_accepted(&app, &odds("8301", 2)).await;
    let mut heard = client.next().await;
    if heard["data"] == 1 {
        // Redis has executed the first publish after all. The error `outcome_unknown` allows that.
        heard = client.next().await;
    }
    assert_eq!(heard["data"], 2);
    client.nothing_came().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_refuses_publishes_and_clients_stay_connected() {
    let Some(redis) = Redis::start().await else { return };
    let app = node(&redis).await;
    app.odds("8301", 1).await;
    let mut client = app.ws("").await;
    let () = redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    // Publish several times, so that the node's regular maintenance runs between the publishes.
    for _ in 0..20 {
        let refused = app.post("/api/publish", "application/json", odds("8301", 2).to_string()).await;
        assert_eq!((refused.status, refused.code()), (503, "engine_unavailable"));
        assert!(refused.detail().contains("OOM"), "{}", refused.detail());
    }
    assert_eq!(app.get("/readyz").await.status, 200);
    client.nothing_came().await;
    let () = redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    publish_until_accepted(&app, &odds("8301", 3)).await;
    assert_eq!(client.next().await["data"], 3, "nothing else was delivered");
}

/// Expects the `catch_up` of a new epoch: these modes by topic, and an unknown number of skipped messages.
async fn expect_new_epoch(client: &mut ws::Client, modes: &Value) {
    let told = client.expect("catch_up").await;
    for (topic, mode) in modes.as_object().unwrap() {
        assert_eq!(told["data"]["topics"][topic], json!({"mode": mode, "skipped": null}), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_lost_its_data_starts_a_new_epoch_for_all_clients() {
    let Some(mut redis) = Redis::start().await else { return };
    let nodes = [node(&redis).await, node(&redis).await];
    let mut clients = [nodes[0].ws("").await, nodes[1].ws("").await];
    let before = nodes[0].odds("8301", 1).await;
    redis.kill();
    redis.resume().await;
    for client in &mut clients {
        client.expect("odds_updates").await;
        expect_new_epoch(client, &json!({"odds_updates": "snapshot", "scrape_progress": "snapshot"})).await;
        client.expect("caught_up").await;
    }
    let after = publish_until_accepted(&nodes[0], &odds("8302", 2)).await;
    let [before, after] = [before, after].map(|answer| position(&answer["position"]));
    assert!(after.epoch > before.epoch && after.offset == 1, "{before} {after}");
    for (client, app) in clients.iter_mut().zip(&nodes) {
        assert_eq!(client.next().await["id"], after.to_string());
        assert_eq!(app.get(STATE).await.body["items"][0]["key"], "8302");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_redis_starts_a_new_epoch_without_a_publish() {
    let Some(redis) = Redis::start().await else { return };
    let app = node(&redis).await;
    app.odds("8301", 1).await;
    let mut client = app.ws("").await;
    let () = redis.ask(&["FLUSHDB"]).await;
    expect_new_epoch(&mut client, &json!({"odds_updates": "snapshot"})).await;
    client.expect("caught_up").await;
    assert_eq!(app.get(STATE).await.body["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_is_refused_completely_if_a_state_has_foreign_data() {
    let Some(redis) = Redis::start().await else { return };
    let app = node(&redis).await;
    let before = position(&app.odds("8301", 1).await["position"]);
    for value in ["not ours", "not\nours", "1 2 not\nours"] {
        let _: u64 = redis.ask(&["HSET", "{oddswire}:state:scrape_progress", "", value]).await;
        let batch = json!([odds("8302", 2), {"topic": "scrape_progress", "data": 1}]).to_string();
        let refused = app.post("/api/publish", "application/json", batch).await;
        assert_eq!((refused.status, refused.code()), (503, "engine_unavailable"), "{value:?}: {}", refused.text);
    }
    let after = position(&publish_until_accepted(&app, &odds("8303", 3)).await["position"]);
    assert_eq!(after, Position { offset: before.offset + 1, ..before }, "no message of the batch was stored");
    assert_eq!(app.get(STATE).await.body["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_expires_while_the_state_has_foreign_data() {
    let Some(redis) = Redis::start().await else { return };
    let app = node(&redis).await;
    let mut client = app.ws("").await;
    let before = position(&app.odds("8301", 1).await["position"]);
    assert_eq!(position(&client.next().await["id"]), before);
    // Both keys expire at the same time. The entry that no node has written comes last.
    let both = "redis.call('HSET', KEYS[1], 'k', 'not ours') return redis.call('ZADD', KEYS[2], 1, '8301', 2, 'k')";
    let [state, expiries] = ["{oddswire}:state:odds_updates", "{oddswire}:expiries:odds_updates"];
    let _: u64 = redis.ask(&["EVAL", both, "2", state, expiries]).await;
    engine_is(&app, "degraded").await;
    let _: u64 = redis.ask(&["HDEL", state, "k"]).await;
    let after = Position { offset: before.offset + 1, ..before };
    assert_eq!(position(&client.next().await["id"]), after, "the key expires once");
    let next = position(&publish_until_accepted(&app, &odds("8303", 3)).await["position"]);
    assert_eq!(next, Position { offset: after.offset + 1, ..after });
}

/// Redis restarts with older data, like a replica that lacks the newest writes. The first publish after that goes to
/// another node than the lost message did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_end_of_the_log_is_detected_after_another_nodes_write() {
    let Some(mut redis) = Redis::with(&DURABLE).await else { return };
    let (ahead, behind) = (node(&redis).await, node(&redis).await);
    ahead.publish(&json!([odds("8301", 1), {"topic": "scrape_progress", "data": 1}])).await;
    let mut clients = [ahead.ws("").await, behind.ws("").await];
    redis.remember().await;
    let lost = publish_until_accepted(&ahead, &odds("8301", "lost")).await;
    for client in &mut clients {
        assert_eq!(client.next().await["data"], "lost");
    }
    redis.lose_end();
    redis.resume().await;
    let taken = publish_until_accepted(&behind, &odds("8302", "kept")).await;
    let [lost, taken] = [lost, taken].map(|answer| position(&answer["position"]));
    assert!(taken.epoch > lost.epoch, "{lost} {taken}");
    for client in &mut clients {
        expect_new_epoch(client, &json!({"odds_updates": "snapshot", "scrape_progress": "gap"})).await;
        let mut state = Vec::new();
        loop {
            let next = client.next().await;
            match next["type"].as_str().unwrap() {
                "caught_up" if state.len() == 3 => break,
                "caught_up" => {}
                _ => state.push(next["data"].clone()),
            }
            if state.len() == 3 && next["id"] == taken.to_string() {
                break;
            }
        }
        assert_eq!(state, [json!(1), json!(1), json!("kept")]);
    }
    for app in [&ahead, &behind] {
        let state = app.get(STATE).await.body;
        assert_eq!(state["items"].as_array().unwrap().len(), 2, "{state}");
        assert_eq!(state["items"][0]["data"], 1, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_behind_a_trimmed_log_rereads_it_and_clients_catch_up() {
    let Some(redis) = Redis::start().await else { return };
    let url = redis.url();
    let environment = [("ODDSWIRE_ENGINE", "redis"), ("ODDSWIRE_REDIS_URL", &url), ("ODDSWIRE_LOG_LEVEL", "info")];
    let mut sleeps = Process::serve(&environment).await;
    sleeps.event("redis.joined").await;
    let app = node(&redis).await;
    app.odds("8301", 0).await;
    let mut client = ws::Client::connect(sleeps.address, "topics=odds_updates").await;
    app.odds("8301", 1).await;
    assert_eq!(client.next().await["data"], 1);
    sleeps.signal("STOP");
    for number in 2..500 {
        app.odds("8301", number).await;
    }
    let _: u64 = redis.ask(&["XTRIM", "{oddswire}:log", "MAXLEN", "10"]).await;
    sleeps.signal("CONT");
    let (mut told, mut next) = (client.next().await, 2);
    // The node may have read some of these messages before it was stopped.
    while told["data"] == next {
        (told, next) = (client.next().await, next + 1);
    }
    assert_eq!(told["data"]["topics"]["odds_updates"]["mode"], "conflated", "{told}");
    assert_eq!(client.next().await["data"], 499);
    client.expect("caught_up").await;
    let taken = sleeps.post("/api/publish", TOKEN, &odds("8302", 1).to_string()).await;
    assert_eq!((taken.status, &taken.body["position"]), (200, &client.next().await["id"]));
}

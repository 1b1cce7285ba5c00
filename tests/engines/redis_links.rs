//! The connection of a node to Redis: TLS, passwords and rights, namespaces, Sentinel, Cluster, and a Redis that is not
//! available at the start. The tests run the program and a real redis-server.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::get::{code, get};
use crate::harness::node::node;
use crate::harness::process::{Environment, Process, TOKEN, refused, run, temporary};
use crate::harness::program::Port;
use crate::harness::redis::{Certificates, Cluster, Redis, Sentinel};
use crate::harness::watcher::{Watcher, position, publish_until_accepted};
use crate::harness::{Answer, sse, within, ws};

/// Publishes a value, and checks that the value arrives live and is in the state.
async fn check_delivery(node: &Process) {
    let mut client = ws::Client::connect(node.address, "topics=odds_updates").await;
    // Use a random value, because an unchanged value would not be delivered.
    let data = json!(fastrand::u64(..).to_string());
    let published = node.odds("8301/1x2/works", data.clone()).await;
    let received = client.expect("odds_updates").await;
    assert_eq!((&received["data"], &received["id"]), (&data, &published["position"]));
    assert_eq!(node.state().await["8301/1x2/works"], data.to_string());
    client.close().await;
}

// TLS.

#[tokio::test]
async fn redis_with_a_trusted_certificate_is_used_over_tls() {
    let Some(certificates) = Certificates::new() else { return };
    let Some((redis, _port, url)) = certificates.redis().await else { return };
    let ca = certificates.path("ca.crt");
    let node = node(&[("ODDSWIRE_REDIS_URL", &url), ("ODDSWIRE_REDIS_CA_FILE", &ca)]).await;
    node.ready().await;
    check_delivery(&node).await;
    let clients: String = redis.ask(&["CLIENT", "LIST"]).await;
    let over_tls = clients.lines().filter(|line| line.contains(&format!("laddr={}", &url["rediss://".len()..])));
    assert_eq!(over_tls.count(), 2, "{clients}");
    node.stop().await;
}

#[tokio::test]
async fn redis_with_an_untrusted_certificate_is_refused_with_a_reason() {
    let Some(certificates) = Certificates::new() else { return };
    let Some((_redis, _port, url)) = certificates.redis().await else { return };
    let other = certificates.path("other.crt");
    let url = url.replace("rediss://", "rediss://oddswire:marmalade@");
    // In the second round the node trusts the system's certificate authorities. They have not signed the certificate
    // either.
    for settings in [&[("ODDSWIRE_REDIS_CA_FILE", other.as_str())][..], &[]] {
        let node = node(&[&[("ODDSWIRE_REDIS_URL", url.as_str())], settings].concat()).await;
        let reason = node.starting("certificate").await;
        assert!(reason.contains("UnknownIssuer") && !reason.contains("marmalade"), "{reason}");
        let log = node.stop().await;
        assert!(log.contains("redis.lost") && log.contains("UnknownIssuer") && !log.contains("marmalade"), "{log}");
    }
}

// Passwords and rights.

#[tokio::test]
async fn wrong_password_is_reported_without_showing_it() {
    let Some(redis) = Redis::start().await else { return };
    let address = redis.address();
    redis.ask::<()>(&["CONFIG", "SET", "requirepass", "mar@malade"]).await;
    for user in ["", ":marmite@", "nobody:mar%40malade@"] {
        let url = format!("redis://{user}{address}");
        let node = node(&[("ODDSWIRE_REDIS_URL", &url)]).await;
        let said = node.starting("auth").await;
        assert_eq!(node.post("/api/publish", TOKEN, r#"{"topic":"odds_updates","data":1}"#).await.status, 503);
        let all = said + &node.stop().await;
        assert!(["malade", "marmite"].iter().all(|secret| !all.contains(secret)), "{all}");
    }
    let url = format!("redis://:mar%40malade@{address}");
    let with_password = node(&[("ODDSWIRE_REDIS_URL", &url)]).await;
    with_password.ready().await;
    check_delivery(&with_password).await;
    assert!(!with_password.stop().await.contains("malade"));

    let file = temporary("redis-url", &format!("{url}\r\n"));
    let from_file = node(&[("ODDSWIRE_REDIS_URL_FILE", &file)]).await;
    std::fs::remove_file(&file).unwrap();
    from_file.ready().await;
    check_delivery(&from_file).await;
}

/// The commands that a node uses. Its Redis user needs exactly the rights for these commands, with Sentinel also for
/// `role`, with Cluster also for `cluster|slots`.
const RIGHTS: [&str; 25] = [
    "evalsha",
    "exists",
    "get",
    "hdel",
    "hexists",
    "hget",
    "hlen",
    "hmget",
    "hscan",
    "hset",
    "info",
    "script|load",
    "set",
    "time",
    "xadd",
    "xinfo|stream",
    "xrange",
    "xread",
    "xrevrange",
    "xtrim",
    "zadd",
    "zcard",
    "zrange",
    "zrangebyscore",
    "zrem",
];

#[tokio::test]
async fn documented_rights_are_sufficient_and_all_used() {
    let Some(redis) = Redis::start().await else { return };
    let rights: Vec<String> = RIGHTS.iter().map(|right| format!("+{right}")).collect();
    let mut user = vec!["ACL", "SETUSER", "oddswire", "on", ">marmalade", "resetchannels", "~{oddswire}:*"];
    user.extend(rights.iter().map(String::as_str));
    redis.ask::<()>(&user).await;
    let url = format!("redis://oddswire:marmalade@{}", redis.address());
    let settings =
        [("ODDSWIRE_REDIS_URL", url.as_str()), ("ODDSWIRE_STATE_KEYS", "2"), ("ODDSWIRE_TOMBSTONE_AGE", "1ms")];
    redis.ask::<()>(&["CONFIG", "RESETSTAT"]).await;
    let first = node(&settings).await;
    first.ready().await;
    check_delivery(&first).await;
    let mut client = ws::Client::connect(first.address, "").await;
    // Publish two keyless messages, and a key that expires and whose tombstone the node then removes.
    for _ in 0..2 {
        first.take(&json!({"topic": "scrape_progress", "data": "keyless"})).await;
        client.expect("scrape_progress").await;
    }
    first.take_expiring("a").await;
    client.expect("odds_updates").await;
    assert_eq!(client.expect("odds_updates").await["data"], Value::Null, "the key has expired");
    let body = r#"{"topic":"odds_updates","key":"b","data":1}"#;
    for _ in 0..2 {
        let request = reqwest::Client::new().post(first.url("/api/publish")).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").header("idempotency-key", "once");
        assert_eq!(Answer::of(request.body(body)).await.status, 200);
    }
    client.expect("odds_updates").await;
    assert_eq!(first.post("/api/broadcast", TOKEN, r#"{"type":"notice","data":1}"#).await.status, 200);
    client.expect("notice").await;
    // Delete more keys than `state-keys` allows, so that the node removes the oldest tombstones early.
    let names = ["c", "d", "e", "f", "g", "8301/1x2/works", "b"];
    for key in names {
        first.odds(key, Value::Null).await;
    }
    for round in 0..4 {
        let set: Vec<Value> = ["x", "y"]
            .iter()
            .map(|key| json!({"topic": "odds_updates", "key": format!("{key}{round}"), "data": 1}))
            .collect();
        first.take(&json!(set)).await;
        for key in ["x", "y"] {
            first.odds(&format!("{key}{round}"), Value::Null).await;
        }
    }
    // Simulate an eviction by Redis.
    redis.ask::<()>(&["DEL", "{oddswire}:facts"]).await;
    let second = node(&settings).await;
    second.ready().await;
    check_delivery(&second).await;

    let denied: Vec<redis::Value> = redis.ask(&["ACL", "LOG"]).await;
    let stats: String = redis.ask(&["INFO", "commandstats"]).await;
    let called = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    let of_the_test = ["auth", "acl|log", "config|resetstat", "del", "client|setinfo"];
    let called: BTreeSet<&str> = called.filter(|name| !of_the_test.contains(name)).collect();
    // A node uses `zrange` only if many more tombstones exceed `state-keys` than in this test.
    let rights: BTreeSet<&str> = RIGHTS.into_iter().filter(|right| *right != "zrange").collect();
    assert_eq!(called, rights, "denied: {denied:?}");
}

#[tokio::test]
async fn missing_right_is_logged() {
    let Some(redis) = Redis::start().await else { return };
    redis.ask::<()>(&["ACL", "SETUSER", "oddswire", "on", ">marmalade", "~*", "+@all", "-xread"]).await;
    let url = format!("redis://oddswire:marmalade@{}", redis.address());
    let mut node = node(&[("ODDSWIRE_REDIS_URL", &url)]).await;
    let lost = node.event("redis.lost").await["error"].to_string();
    assert!(lost.contains("xread") && !lost.contains("marmalade"), "{lost}");
}

#[tokio::test]
async fn retry_delay_stays_within_250_ms_however_long_redis_is_down() {
    let nowhere = Port::free();
    let url = format!("redis://{}", nowhere.address);
    let mut node = node(&[("ODDSWIRE_REDIS_URL", &url), ("ODDSWIRE_LOG_LEVEL", "debug")]).await;
    for _ in 0..14 {
        let lost = node.event("redis.lost").await;
        // The delay must stay well below a second, because after a restart of Redis, nodes wait only a second for each
        // other.
        assert!(lost["again_in_ms"].as_u64().expect("a number") <= 250, "{lost}");
    }
    let lost = node.stop().await;
    assert_eq!(lost.lines().filter(|line| line.contains("WARN") && line.contains("redis.lost")).count(), 1, "{lost}");
}

// Namespaces.

#[tokio::test]
async fn namespaces_and_databases_are_isolated() {
    let Some(redis) = Redis::start().await else { return };
    let plain = redis.url();
    let second = format!("{plain}/2");
    let places: [Environment<'_>; 4] = [
        &[("ODDSWIRE_REDIS_URL", &plain)],
        &[("ODDSWIRE_REDIS_URL", &plain), ("ODDSWIRE_REDIS_NAMESPACE", "staging")],
        &[("ODDSWIRE_REDIS_URL", &second)],
        &[("ODDSWIRE_REDIS_URL", &second), ("ODDSWIRE_REDIS_NAMESPACE", "Staging_2.eu-west:1")],
    ];
    let mut nodes = Vec::new();
    for settings in places {
        let node = node(settings).await;
        node.ready().await;
        let client = ws::Client::connect(node.address, "").await;
        nodes.push((node, client));
    }
    for (number, (node, _)) in nodes.iter().enumerate() {
        node.odds("same", number).await;
        assert_eq!(node.post("/api/broadcast", TOKEN, r#"{"type":"notice","data":1}"#).await.status, 200);
    }
    for (number, (node, client)) in nodes.iter_mut().enumerate() {
        assert_eq!(client.expect("odds_updates").await["data"], number);
        client.expect("notice").await;
        client.nothing_came().await;
        assert_eq!(node.state().await["same"], number.to_string());
    }
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    let mine = |key: &String| key.starts_with("{oddswire}:") || key.starts_with("{staging}:");
    assert!(keys.len() > 4 && keys.iter().all(mine), "{keys:?}");
}

// Sentinel.

fn round(number: usize) -> Value {
    json!([
        {"topic": "odds_updates", "key": format!("8301/1x2/{}", number % 7), "data": number},
        {"topic": "scrape_progress", "data": number},
    ])
}

#[tokio::test]
async fn sentinel_failover_is_seamless_or_starts_a_new_epoch() {
    let Some(master) = Redis::with(&["--repl-diskless-sync-delay", "0"]).await else { return };
    let Some(replica) = Redis::replica_of(&master).await else { return };
    let sentinel = Sentinel::of(&master).await;
    let node = node(&[("ODDSWIRE_REDIS_URL", &sentinel.url())]).await;
    node.ready().await;
    let mut watcher = Watcher::of(&node).await;
    let first = position(&node.take(&round(0)).await);
    watcher.reaches(first).await;

    sentinel.fail_over().await;
    let (published, heard) = {
        let publishing = async {
            let mut number = 1;
            // Publish until the old master has become a replica, and then a few more times.
            loop {
                publish_until_accepted(&node, &number.to_string(), &round(number)).await;
                number += 1;
                // Redis closes all connections when it becomes a replica, so the command may fail.
                let said: Option<String> = master.try_ask(&["INFO", "replication"]).await;
                if said.is_some_and(|said| said.contains("role:slave")) {
                    break;
                }
            }
            for number in number..number + 5 {
                publish_until_accepted(&node, &number.to_string(), &round(number)).await;
            }
            let last = number + 5;
            (last, position(&publish_until_accepted(&node, "last", &round(last)).await))
        };
        tokio::pin!(publishing);
        let published = loop {
            tokio::select! {
                biased;
                published = &mut publishing => break published,
                () = watcher.read() => {}
            }
        };
        (published, &mut watcher)
    };
    let (number, last) = published;
    heard.reaches(last).await;
    sentinel.follows(&replica).await;
    let follower = &heard.follower;
    if last.epoch == first.epoch {
        assert_eq!(follower.messages, 2 * (number + 1), "every message came once");
        assert_eq!(follower.modes.len(), 0, "{:?}", follower.modes);
    } else {
        assert!(follower.modes.contains_key("snapshot"), "{:?}", follower.modes);
    }
    assert_eq!(follower.keyless.as_deref(), Some(number.to_string().as_str()));
    assert_eq!(follower.state, node.state().await);
    let kept: usize = replica.ask(&["HLEN", "{oddswire}:state:odds_updates"]).await;
    assert_eq!(kept, follower.state.len());
}

#[tokio::test]
async fn failover_that_loses_messages_starts_a_new_epoch() {
    let Some(mut master) = Redis::with(&["--repl-diskless-sync-delay", "0"]).await else { return };
    let Some(mut replica) = Redis::replica_of(&master).await else { return };
    let sentinel = Sentinel::of(&master).await;
    let url = sentinel.url();
    let first = node(&[("ODDSWIRE_REDIS_URL", &url)]).await;
    first.ready().await;
    let mut watcher = Watcher::of(&first).await;
    let kept = position(&first.take(&round(0)).await);
    watcher.reaches(kept).await;

    // Wait until the replica has the messages of the first round. Then kill the replica, so that it misses the second
    // round.
    let has = async || replica.ask::<u64>(&["HLEN", "{oddswire}:state:odds_updates"]).await;
    within(async { while has().await == 0 {} }).await;
    replica.ask::<()>(&["SAVE"]).await;
    replica.kill();
    let lost = position(&first.take(&round(1)).await);
    watcher.reaches(lost).await;
    assert_eq!(lost.epoch, kept.epoch);
    master.kill();
    first.becomes("degraded", |answer| answer.status == 200 && answer.body["engine"] == "degraded").await;
    assert!(watcher.follower.state.contains_key("8301/1x2/1"));
    let refused = first.post("/api/publish", TOKEN, &round(2).to_string()).await;
    assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, "engine_unavailable", "1"));

    replica.resume().await;
    let after = position(&publish_until_accepted(&first, "after", &round(2)).await);
    watcher.reaches(after).await;
    assert!(after.epoch > kept.epoch, "{after} after {kept}");
    let told = &watcher.follower.modes;
    assert!(told.contains_key("snapshot"), "{told:?}");
    let state = first.state().await;
    assert_eq!(watcher.follower.state, state);
    assert_eq!(state.keys().collect::<Vec<_>>(), ["8301/1x2/0", "8301/1x2/2"]);

    // A node that starts later also sends a snapshot to a client that resumes from the lost position.
    let second = node(&[("ODDSWIRE_REDIS_URL", &url)]).await;
    second.ready().await;
    let mut late = ws::Client::connect(second.address, &format!("topics=odds_updates&since={lost}")).await;
    let told = late.expect("catch_up").await;
    assert_eq!(told["data"]["topics"]["odds_updates"]["mode"], "snapshot");
    assert_eq!(second.state().await, state);
}

// Cluster.

#[tokio::test]
async fn cluster_works_and_survives_the_restart_of_a_master() {
    let Some(mut cluster) = Cluster::of(3).await else { return };
    let url = cluster.url();
    // The keys of these namespaces are on different masters. The node must send each command to the right master.
    let namespaces = ["oddswire", "a", "b", "c", "d"];
    let mut owners = BTreeSet::new();
    for namespace in namespaces {
        let settings = [("ODDSWIRE_REDIS_URL", url.as_str()), ("ODDSWIRE_REDIS_NAMESPACE", namespace)];
        let nodes = [node(&settings).await, node(&settings).await];
        for node in &nodes {
            node.ready().await;
        }
        let (mut other, mut watcher) = (Watcher::of(&nodes[0]).await, Watcher::of(&nodes[1]).await);
        let mut last = position(&nodes[0].take(&round(0)).await);
        for number in 1..20 {
            last = position(&nodes[number % 2].take(&round(number)).await);
        }
        watcher.reaches(last).await;
        other.reaches(last).await;
        assert_eq!((watcher.follower.messages, watcher.follower.state.len()), (40, 7));
        assert_eq!(watcher.follower.state, nodes[0].state().await);
        owners.insert(cluster.owner(&format!("{{{namespace}}}:log")).await.address());
    }
    assert!(owners.len() > 1, "the namespaces are spread");

    let node = node(&[("ODDSWIRE_REDIS_URL", &url)]).await;
    node.ready().await;
    let mut watcher = Watcher::of(&node).await;
    let before = position(&node.take(&round(100)).await);
    let owner = cluster.owner("{oddswire}:log").await;
    owner.ask::<()>(&["SAVE"]).await;
    owner.kill();
    node.becomes("degraded", |answer| answer.status == 200 && answer.body["engine"] == "degraded").await;
    let refused = node.post("/api/publish", TOKEN, &round(101).to_string()).await;
    assert_eq!((refused.status, refused.code()), (503, "engine_unavailable"));
    owner.resume().await;
    let after = position(&publish_until_accepted(&node, "after", &round(102)).await);
    assert_eq!((after.epoch, after.offset), (before.epoch, before.offset + 2));
    watcher.reaches(after).await;
    assert_eq!((watcher.follower.messages, watcher.follower.modes.len()), (4, 0));
}

// Redis is not available at the start.

#[tokio::test]
async fn node_answers_503_until_redis_is_available() {
    let Some(mut redis) = Redis::start().await else { return };
    redis.kill();
    let node = node(&[("ODDSWIRE_REDIS_URL", &redis.url())]).await;
    let reason = node.starting("refused").await;
    assert_eq!(node.get("/healthz").await.status, 200);
    let publish = node.post("/api/publish", TOKEN, r#"{"topic":"odds_updates","data":1}"#).await;
    let broadcast = node.post("/api/broadcast", TOKEN, r#"{"type":"notice","data":1}"#).await;
    let state = node.get("/api/topics/odds_updates/state").await;
    for answer in [publish, broadcast, state] {
        let found = (answer.status, answer.code(), answer.header("retry-after"));
        assert_eq!(found, (503, "engine_unavailable", "1"), "{}", answer.text);
        assert!(answer.detail().contains("refused"), "{} differs from {reason}", answer.detail());
    }
    for path in ["/api/ws", "/api/sse", "/api/ws?since=1-1"] {
        let (_open, response) = get(node.address, path, &[]).await;
        let found = (response.status, code(&response), response.header("retry-after"));
        assert_eq!(found, (503, "engine_unavailable", "1"), "{path}: {}", response.body);
    }
    redis.resume().await;
    node.ready().await;
    check_delivery(&node).await;
    let socket = within(TcpStream::connect(node.address)).await.unwrap();
    sse::Client::over(socket, "since=snapshot").await.expect("catch_up").await;
}

// Settings.

#[tokio::test]
async fn invalid_redis_setting_exits_with_2_and_hides_the_password() {
    const URLS: &str = "expected redis://";
    let engine = ("ODDSWIRE_ENGINE", "redis");
    refused(&run(&[], &[engine]).await, &["redis-url", "redis://localhost:6379", "redis-url-file"]);
    for url in [
        "marmalade",
        "localhost:6379",
        "http://user:marmalade@localhost",
        "user:marmalade@redis://localhost",
        "redis://user:marmalade@localhost:port",
        "redis://user:marmalade@localhost:6379/database",
        "redis://user:marmalade@",
        "redis-sentinel://user:marmalade@localhost:26379",
        "redis-sentinel://user:marmalade@localhost/main",
        "redis-cluster://user:marmalade@localhost",
        "redis-cluster://user:mar%ffmalade@localhost:7000",
    ] {
        let file = temporary("redis-url", url);
        for ended in [
            run(&["--redis-url", url], &[engine]).await,
            run(&["serve"], &[engine, ("ODDSWIRE_REDIS_URL", url)]).await,
            run(&[], &[engine, ("ODDSWIRE_REDIS_URL_FILE", &file)]).await,
        ] {
            refused(&ended, &["redis-url", URLS]);
            assert!(!ended.stderr.contains("malade"), "{url}: {}", ended.stderr);
        }
        let named = run(&[], &[engine, ("ODDSWIRE_REDIS_URL_FILE", &file)]).await;
        refused(&named, &["redis-url-file", &file]);
        std::fs::remove_file(&file).unwrap();
    }
    let url = ("ODDSWIRE_REDIS_URL", "redis://user:marmalade@localhost");
    let spaces = run(&[], &[engine, ("ODDSWIRE_REDIS_URL", "redis://user:mar malade@localhost")]).await;
    refused(&spaces, &["redis-url", "visible ASCII characters without spaces"]);
    let both = run(&[], &[engine, url, ("ODDSWIRE_REDIS_URL_FILE", "/nowhere/url")]).await;
    refused(&both, &["redis-url", "redis-url-file"]);
    let nowhere = run(&[], &[engine, ("ODDSWIRE_REDIS_URL_FILE", "/nowhere/url")]).await;
    refused(&nowhere, &["redis-url-file", "/nowhere/url", "No such file"]);

    let empty = temporary("ca-empty", "marmalade\n");
    let torn = temporary("ca-torn", "-----BEGIN CERTIFICATE-----\nmarmalade\n-----END CERTIFICATE-----\n");
    for (file, says) in [("/nowhere/ca", "No such file"), (&empty, "certificates in PEM"), (&torn, "redis-ca-file")] {
        let ended = run(&["--redis-ca-file", file], &[engine, url]).await;
        refused(&ended, &["redis-ca-file", file, says]);
        assert!(!ended.stderr.contains("malade"), "{}", ended.stderr);
    }
    let long = "n".repeat(65);
    for namespace in ["", "a b", "a{b}", "ä", &long] {
        let ended = run(&[], &[engine, url, ("ODDSWIRE_REDIS_NAMESPACE", namespace)]).await;
        refused(&ended, &["redis-namespace", "1 to 64 of the characters"]);
    }
    for ended in [&spaces, &both, &nowhere] {
        assert!(!ended.stderr.contains("malade"), "{}", ended.stderr);
    }
}

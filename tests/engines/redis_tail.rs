//! Redis loses the end of the log, and the nodes that had read this end are gone or return late. All clients must still
//! learn of the loss.

use serde_json::json;

use crate::harness::link::{Flow, Link};
use crate::harness::node::node;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::watcher::{Watcher, position, publish_until_accepted};
use crate::harness::{within, ws};

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Publishes a message for each of these keys, and returns the position of the last message.
async fn odds(node: &Process, keys: std::ops::Range<usize>, says: &str) -> oddswire::message::Position {
    let mut last = None;
    for key in keys {
        let message = json!({"topic": "odds_updates", "key": format!("{says}/{key}"), "data": says});
        last = Some(position(&publish_until_accepted(node, &format!("{says}-{key}"), &message).await));
    }
    last.expect("there are keys")
}

#[tokio::test]
async fn loss_seen_only_by_a_dead_node_starts_a_new_epoch() {
    let Some(mut redis) = Redis::with(&DURABLE).await else { return };
    let url = redis.url();
    let settings = [("ODDSWIRE_REDIS_URL", url.as_str())];
    let gone = node(&settings).await;
    gone.ready().await;
    let before = odds(&gone, 0..5, "kept").await;
    redis.remember().await;
    let mut watcher = Watcher::of(&gone).await;
    let lost = odds(&gone, 0..10, "lost").await;
    assert_eq!(
        lost.epoch, before.epoch,
        "a restart without a loss keeps the epoch, because the node finds all messages that it had read"
    );
    watcher.reaches(lost).await;
    gone.signal("KILL");
    gone.end().await;
    redis.lose_end();
    redis.resume().await;

    let cold = node(&settings).await;
    cold.ready().await;
    // The new messages use the offsets of the lost messages, and two more offsets.
    let after = odds(&cold, 0..12, "new").await;
    assert!(after.epoch > lost.epoch, "{after} after {lost}");
    let query = watcher.follower.resume();
    let mut client = ws::Client::connect(cold.address, &query).await;
    watcher.follower.take(&client.ack.to_string());
    std::mem::swap(&mut watcher.client, &mut client);
    watcher.reaches(after).await;
    assert!(watcher.follower.modes.contains_key("snapshot"), "{:?}", watcher.follower.modes);
    assert_eq!(watcher.follower.state, cold.state().await);
}

#[tokio::test]
async fn client_cut_off_while_it_learns_of_a_loss_misses_nothing() {
    let Some(mut redis) = Redis::with(&DURABLE).await else { return };
    let url = redis.url();
    let node = node(&[("ODDSWIRE_REDIS_URL", url.as_str())]).await;
    node.ready().await;
    let kept = odds(&node, 0..5, "kept").await;
    redis.remember_running();
    let mut watcher = Watcher::of(&node).await;
    watcher.reaches(odds(&node, 0..3, "lost").await).await;
    redis.lose_end();
    redis.resume().await;
    let new = odds(&node, 0..3, "new").await;
    assert!(new.epoch > kept.epoch, "{new} after {kept}");
    // Cut the client off after the last message of the snapshot, which is the last message that Redis has kept.
    let last = Some(oddswire::message::Position { epoch: new.epoch, offset: kept.offset });
    while watcher.follower.cursor != last {
        watcher.read().await;
    }
    assert!(watcher.follower.modes.contains_key("snapshot"), "{:?}", watcher.follower.modes);
    let query = watcher.follower.resume();
    let mut client = ws::Client::connect(node.address, &query).await;
    watcher.follower.take(&client.ack.to_string());
    std::mem::swap(&mut watcher.client, &mut client);
    watcher.reaches(new).await;
    assert_eq!(new.offset, kept.offset + 3, "each offset has a message");
    assert_eq!(watcher.follower.state, node.state().await);
}

#[tokio::test]
async fn paused_node_detects_a_loss_even_after_the_log_was_trimmed() {
    let Some(mut redis) = Redis::with(&DURABLE).await else { return };
    let link = Link::to(redis.address()).await;
    let (direct, linked) = (redis.url(), format!("redis://{}", link.address));
    let ahead = node(&[("ODDSWIRE_REDIS_URL", &direct)]).await;
    let behind = node(&[("ODDSWIRE_REDIS_URL", &linked)]).await;
    ahead.ready().await;
    behind.ready().await;
    let mut watcher = Watcher::of(&ahead).await;
    watcher.reaches(odds(&behind, 0..5, "kept").await).await;
    redis.remember().await;
    // Both nodes have found their position in the restarted Redis. Cut one node off before the test publishes the
    // messages that Redis will lose.
    behind.ready().await;
    link.set(Flow::Cut);
    behind.becomes("degraded", |answer| answer.body["engine"] == "degraded").await;
    let lost = odds(&ahead, 0..10, "lost").await;
    watcher.reaches(lost).await;
    ahead.signal("STOP");
    redis.lose_end();
    redis.resume().await;
    link.set(Flow::Open);
    let after = odds(&behind, 0..30, "new").await;
    assert!(after.offset > lost.offset, "{after} is beyond {lost}");
    let _: u64 = redis.ask(&["XTRIM", "{oddswire}:log", "MAXLEN", "5"]).await;
    ahead.signal("CONT");
    ahead.ready().await;
    let end = odds(&ahead, 0..1, "end").await;
    watcher.reaches(end).await;
    assert!(end.epoch > lost.epoch, "{end} after {lost}");
    assert_eq!(watcher.follower.state, ahead.state().await);
    assert!(watcher.follower.state.keys().all(|key| !key.starts_with("lost")));
}

#[tokio::test]
async fn log_trimmed_during_the_first_read_is_reported_as_a_gap() {
    let Some(redis) = Redis::start().await else { return };
    let direct = redis.url();
    let first = node(&[("ODDSWIRE_REDIS_URL", &direct)]).await;
    first.ready().await;
    let batch = |from: usize| (from..from + 300).map(|at| json!({"topic": "scrape_progress", "data": at}));
    let mut since = None;
    for number in 0..3 {
        let taken = first.take(&batch(number * 300).collect()).await;
        since.get_or_insert(position(&taken));
    }
    let link = Link::to(redis.address()).await;
    // Stall the node while it reads the first piece of the log. Trim the second piece before the node asks for it.
    link.set(Flow::StalledBehind(32 << 10));
    let linked = format!("redis://{}", link.address);
    let late = node(&[("ODDSWIRE_REDIS_URL", &linked)]).await;
    within(link.stalled.notified()).await;
    let dropped: u64 = redis.ask(&["XTRIM", "{oddswire}:log", "MAXLEN", "100"]).await;
    assert_eq!(dropped, 801, "the entry that opens the epoch, and 800 messages");
    link.set(Flow::Open);
    late.ready().await;
    let mut client =
        ws::Client::connect(late.address, &format!("topics=scrape_progress&since={}", since.unwrap())).await;
    let told = client.expect("catch_up").await;
    assert_eq!(told["data"]["topics"]["scrape_progress"]["mode"], "gap", "{told}");
    assert_eq!(client.next().await["data"], 800);
}

//! `oddswire demo`: simulated odds for a first look at the project.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::harness::command::Running;
use crate::harness::process::{self, Process};
use crate::harness::ws;

#[tokio::test]
async fn subscriber_receives_scrape_progress_and_changing_prices() {
    let demo = Process::start(&["demo", "--rate=2000", "--seed=1", "--drain-spread=0s"], &[]).await;
    let mut client = ws::Client::connect(demo.address, "since=snapshot").await;
    let (mut prices, mut moved) = (BTreeMap::new(), BTreeSet::new());
    let (mut phases, mut bookmakers) = (BTreeSet::new(), BTreeSet::new());
    while !(phases.contains("scraping") && bookmakers.len() >= 2 && moved.len() >= 100) {
        let Value::Object(message) = client.next().await else { panic!("an object") };
        let Some(topic) = message.get("topic") else { continue };
        let data = &message["data"];
        if topic == "scrape_progress" {
            assert!(message.get("key").is_none() && data["total"] == 3 && data.get("platform").is_some(), "{data}");
            phases.insert(data["phase"].as_str().unwrap().to_owned());
        } else if !data.is_null() {
            let key = message["key"].as_str().unwrap().to_owned();
            bookmakers.insert(key.rsplit('/').next().unwrap().to_owned());
            let now = data["outcomes"].clone();
            assert!(now.as_array().unwrap().iter().all(|outcome| outcome["price"].as_f64().unwrap() > 1.0), "{data}");
            if prices.insert(key.clone(), now.clone()).is_some_and(|before| before != now) {
                moved.insert(key);
            }
        }
    }
    demo.signal("TERM");
    let ended = demo.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.starts_with("oddswire demo: 200 events, 10 bookmakers, 2,000 changes per second."),
        "{}",
        ended.stdout
    );
    assert!(!ended.stderr.contains("demo.refused") && !ended.stderr.contains("demo.failed"), "{}", ended.stderr);
}

#[tokio::test]
async fn demo_uses_the_server_settings() {
    let demo = Process::start(&["demo", "--publish-token=sesame"], &[("ODDSWIRE_HISTORY_MESSAGES", "7")]).await;
    assert_eq!((demo.publish("sesame").await, demo.publish("wrong").await), (200, 401));
    // A closed terminal sends SIGHUP.
    demo.signal("HUP");
    let ended = demo.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let refused = process::run(&["demo", "--topics=odds_updates"], &[]).await;
    process::refused(&refused, &["topics is 'odds_updates'", "scrape_progress"]);
    Running::run(&["demo", "--rate=0"], &[]).await.failed(2, &["--rate"]);
}

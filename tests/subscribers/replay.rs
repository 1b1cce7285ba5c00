//! The recorded odds, published to the real server and received by real clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oddswire::topic::Subscription;

use crate::harness::recording::{self, Line};
use crate::harness::{App, eventually, within};

/// A client's subscriptions, and the messages that the client must receive, as their numbers in the recording.
struct Listener {
    topics: String,
    expected: Vec<usize>,
    received: AtomicUsize,
}

impl Listener {
    fn new(topics: String, delivered: &[Option<u64>], lines: &[Line]) -> Arc<Self> {
        let subscriptions: Vec<Subscription> = topics.split(',').map(|text| text.parse().unwrap()).collect();
        let covers = |line: &Line| {
            let key = line.key.parse().unwrap();
            subscriptions.iter().any(|s| s.topic().as_str() == "odds_updates" && s.covers(Some(&key)))
        };
        let expected = (0..lines.len()).filter(|at| delivered[*at].is_some() && covers(&lines[*at])).collect();
        Arc::new(Self { topics, expected, received: AtomicUsize::new(0) })
    }

    /// Checks byte for byte that this text is the next expected message.
    fn take(&self, text: &str, delivered: &[Option<u64>], lines: &[Line]) {
        let at = self.received.fetch_add(1, Ordering::AcqRel);
        let expected = self.expected[at];
        let line = &lines[expected];
        let key = serde_json::to_string(&line.key).unwrap();
        let end = format!("\",\"data\":{}}}", line.data);
        assert!(text.ends_with(&end), "message {at} of {}: {text} does not end with {end}", self.topics);
        let offset = delivered[expected].unwrap();
        let middle = format!("-{offset}\",\"key\":{key},\"timestamp\":\"");
        assert!(text.starts_with(r#"{"type":"odds_update","topic":"odds_updates","id":""#), "{text}");
        assert!(text.contains(&middle), "{text} does not contain {middle}");
    }

    fn is_complete(&self, up_to: usize) -> bool {
        self.received.load(Ordering::Acquire) == self.expected.partition_point(|at| *at < up_to)
    }
}

/// The offset of each line; `None` if the line does not change the data of its key.
fn offsets(lines: &[Line]) -> Vec<Option<u64>> {
    let mut held: HashMap<&str, &str> = HashMap::new();
    let mut last = 0;
    let mut offset = |line: &Line| {
        last += 1;
        let _ = line;
        last
    };
    lines.iter().map(|line| (held.insert(&line.key, &line.data) != Some(&line.data)).then(|| offset(line))).collect()
}

/// Returns the subscriptions of the subscriber with this number: topics, or an event, market or key of the recording.
fn topics(number: usize, lines: &[Line]) -> String {
    let key = &lines[number * 311 % lines.len()].key;
    let mut segments = key.split('/');
    let (event, market) = (segments.next().unwrap(), segments.next().unwrap());
    match number % 6 {
        0 => "odds_updates,scrape_progress".to_owned(),
        1 => "odds_updates".to_owned(),
        2 => format!("odds_updates/{event}"),
        3 => format!("odds_updates/{event}/{market}"),
        4 => format!("odds_updates/{key},odds_updates/{event}/{market},scrape_progress"),
        _ => format!("odds_updates,odds_updates/{event}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_clients_get_exactly_their_recorded_messages() {
    let Some(bursts) = recording::bursts() else { return };
    let largest = bursts.iter().map(Vec::len).max().unwrap();
    assert_eq!(largest, 2740);
    let app = App::with(|config| config.outbox_bytes = 4 << 20).await;
    let lines: Arc<Vec<Line>> = Arc::new(bursts.concat());
    assert_eq!(lines.len(), 18_605);
    let delivered = Arc::new(offsets(&lines));

    let mut listeners = Vec::new();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..60 {
        let listener = Listener::new(topics(number, &lines), &delivered, &lines);
        listeners.push(Arc::clone(&listener));
        let (lines, delivered) = (Arc::clone(&lines), Arc::clone(&delivered));
        let query = format!("topics={}", listener.topics);
        if number % 6 == 5 {
            let mut client = app.sse(&query).await;
            clients.spawn(async move {
                while !listener.is_complete(lines.len()) {
                    listener.take(&client.text().await, &delivered, &lines);
                }
            });
        } else {
            let mut client = app.ws(&query).await;
            clients.spawn(async move {
                while !listener.is_complete(lines.len()) {
                    listener.take(&client.text().await, &delivered, &lines);
                }
                client.nothing_came().await;
            });
        }
    }
    let mut published = 0;
    for burst in &bursts {
        let answer = app.post("/api/publish", "application/x-ndjson", recording::ndjson(burst)).await;
        assert_eq!(answer.body["accepted"], burst.len(), "{}", answer.text);
        published += burst.len();
        eventually("all clients have the burst", || {
            clients.len() < 60 || listeners.iter().all(|listener| listener.is_complete(published))
        })
        .await;
    }
    while let Some(client) = within(clients.join_next()).await {
        client.expect("the client received its messages");
    }
}

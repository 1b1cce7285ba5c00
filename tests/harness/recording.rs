//! The recorded odds, which tests publish again.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::recorded;

/// One recorded message.
#[derive(Debug, Clone)]
pub struct Line {
    pub key: String,
    pub data: String,
    seen_at: String,
}

impl Line {
    /// The message as a publisher sends it.
    pub fn body(&self) -> String {
        let key = serde_json::to_string(&self.key).unwrap();
        format!(r#"{{"topic":"odds_updates","key":{key},"type":"odds_update","data":{}}}"#, self.data)
    }
}

/// The 18,605 recorded messages, grouped into bursts: all messages of a burst have the same `seen_at`. `None` if the
/// data is absent.
pub fn bursts() -> Option<Vec<Vec<Line>>> {
    #[derive(Deserialize)]
    struct Recorded<'a> {
        key: String,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Data {
        seen_at: String,
    }
    let mut text = String::new();
    let file = std::fs::File::open(recorded("odds_updates.ndjson.gz")?).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut bursts: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for line in text.lines() {
        let Recorded { key, data } = serde_json::from_str(line).unwrap();
        let Data { seen_at } = serde_json::from_str(data.get()).unwrap();
        let line = Line { key, data: data.get().to_owned(), seen_at };
        bursts.entry(line.seen_at.clone()).or_default().push(line);
    }
    Some(bursts.into_values().collect())
}

/// The messages of a burst as one NDJSON body: one message per line.
pub fn ndjson(burst: &[Line]) -> String {
    burst.iter().map(|line| line.body() + "\n").collect()
}

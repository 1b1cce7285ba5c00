//! The console in a real browser, and the operations of a user.

use serde_json::{Value, json};

use super::browser::Browser;

/// Parts of the errors that the browser itself logs while the server is down.
pub const AWAY: [&str; 2] = ["WebSocket connection to", "Failed to load resource"];

/// A page of the console.
pub struct Page(Browser);

impl Page {
    /// Starts the browser. Returns `None`, and prints one line to standard error, if a required program or package is
    /// not installed.
    pub async fn start() -> Option<Self> {
        Browser::start("console.mjs", &["playwright-core", "axe-core"]).await.map(Self)
    }

    async fn operate(&mut self, operation: Value) -> Value {
        self.0.tell(&operation).await;
        let mut answer = self.0.next_of(&["done", "failed"]).await;
        assert_eq!(answer["event"], "done", "{}", answer["detail"].as_str().unwrap_or_default());
        answer["value"].take()
    }

    /// Opens the page on a large screen, and waits until it is live.
    pub async fn open(&mut self, url: &str) {
        self.look(url, 1440, 900).await;
        self.is_live().await;
    }

    /// Opens the page on a screen of this size.
    pub async fn look(&mut self, url: &str, width: u32, height: u32) {
        self.operate(json!({"open": {"url": url, "width": width, "height": height}})).await;
    }

    /// Reloads the page in the same tab.
    pub async fn reload(&mut self) {
        self.evaluate("window.isOld = true, void location.reload()").await;
        self.until("window.isOld === undefined").await;
    }

    pub async fn is_live(&mut self) {
        self.until("document.querySelector('#status').dataset.state === 'live'").await;
    }

    /// Waits until a JavaScript expression is truthy, and returns its value.
    pub async fn until(&mut self, expression: &str) -> Value {
        self.operate(json!({"until": expression})).await
    }

    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.operate(json!({"evaluate": expression})).await
    }

    pub async fn press(&mut self, key: &str) {
        self.operate(json!({"press": key})).await;
    }

    pub async fn type_text(&mut self, text: &str) {
        self.operate(json!({"type": text})).await;
    }

    pub async fn click(&mut self, selector: &str) {
        self.operate(json!({"click": selector})).await;
    }

    /// Waits until a visible element that matches the selector contains this text.
    pub async fn shows(&mut self, selector: &str, text: &str) {
        let [selector, text] = [selector, text].map(|text| json!(text));
        let has = format!("e.checkVisibility() && e.textContent.includes({text})");
        self.until(&format!("[...document.querySelectorAll({selector})].some(e => {has})")).await;
    }

    /// The text of a key's row, with spaces between the cells. `last` is the last part of the key, which the row
    /// displays.
    pub async fn row(&mut self, last: &str) -> String {
        self.row_with(last, "").await
    }

    /// The same as `row`, but waits until the row contains this text.
    pub async fn row_with(&mut self, last: &str, text: &str) -> String {
        let [last, text] = [last, text].map(|text| json!(text));
        let row = format!(
            "[...document.querySelectorAll('.row')].find(r => r.querySelector('.name')?.textContent === {last})"
        );
        let shown = format!("({row})?.innerText.replace(/\\s+/g, ' ')");
        let shown = self.until(&format!("(shown => shown?.includes({text}) && shown)({shown})")).await;
        shown.as_str().expect("a text").to_owned()
    }

    /// Checks that the page has logged no error or warning, thrown no exception and sent no request to another host.
    /// Ignores console texts that contain one of `but_for`.
    pub async fn is_quiet(&mut self, but_for: &[&str]) {
        let noise = self.operate(json!({"noise": null})).await;
        let said = noise["console"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
        let unexpected: Vec<&str> = said.filter(|text| !but_for.iter().any(|known| text.contains(known))).collect();
        assert!(unexpected.is_empty(), "the console says {unexpected:?}");
        assert_eq!((&noise["exceptions"], &noise["foreign"]), (&json!([]), &json!([])));
    }

    /// Checks that axe-core finds no accessibility barrier, in the light and in the dark colour scheme.
    pub async fn has_no_barrier(&mut self, what: &str) {
        for scheme in ["light", "dark"] {
            self.operate(json!({"scheme": scheme})).await;
            let found = self.operate(json!({"axe": null})).await;
            assert_eq!(found, json!([]), "{what}, {scheme}");
        }
    }

    pub async fn end(self) {
        self.0.end().await;
    }
}

/// A message about the progress of a scrape.
pub fn progress(phase: &str, current: u64, total: impl Into<Value>) -> Value {
    let data =
        json!({"platform": null, "phase": phase, "current": current, "total": total.into(), "events_count": 120});
    json!({"topic": "scrape_progress", "data": data})
}

/// The data of a market: the home price, the away price and the event.
pub fn prices(home: f64, away: f64) -> Value {
    json!({"home": home, "away": away, "event_id": 8301})
}

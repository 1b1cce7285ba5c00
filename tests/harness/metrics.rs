//! The metrics that a server's admin listener serves.

use super::{Answer, App, within};

/// The value of a series, such as `oddswire_connects_total{transport="sse"}`; 0 if the series does not exist yet.
pub async fn value(app: &App, series: &str) -> f64 {
    let text = exposition(app).await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

pub async fn exposition(app: &App) -> Answer {
    let url = format!("http://{}/metrics", app.admin);
    Answer::of(reqwest::Client::new().get(url)).await
}

/// Waits until a series has this value.
pub async fn becomes(app: &App, series: &str, expected: f64) {
    within(async {
        while (value(app, series).await - expected).abs() > f64::EPSILON {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

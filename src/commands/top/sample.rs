//! One sample of a server's metrics and connections.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde::Deserialize;

use super::exposition::Exposition;
use crate::commands::client::{Answer, Client, RefusedRequest};
use crate::commands::printable;

/// The answers of the admin listener at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) metrics: Exposition,
    pub(super) connections: Vec<ConnectionFacts>,
}

/// A client, as `/api/connections` lists it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ConnectionFacts {
    pub(super) id: String,
    pub(super) peer: Option<String>,
    pub(super) subscriptions: Vec<String>,
    pub(super) age_ms: u64,
    pub(super) outbox_bytes: u64,
    pub(super) behind: u64,
    pub(super) bytes_sent: u64,
}

impl Sample {
    /// Takes a sample. The error is one line, for the screen.
    pub(super) async fn take(client: &mut Client) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            connections: Vec<ConnectionFacts>,
        }
        let metrics = client.get("/metrics").await.map_err(|error| error.to_string())?;
        let metrics = Exposition::read(&String::from_utf8_lossy(&taken("/metrics", metrics)?));
        let listed = client.get("/api/connections").await.map_err(|error| error.to_string())?;
        let listed = taken("/api/connections", listed)?;
        let listed: Body = serde_json::from_slice(&listed).map_err(|_| not_admin("/api/connections"))?;
        if metrics.values("oddswire_build_info", "version").is_empty() {
            return Err(not_admin("/metrics"));
        }
        Ok(Self { at: Instant::now(), metrics, connections: listed.connections.into_iter().map(shown).collect() })
    }

    /// The version of the server.
    pub(super) fn version(&self) -> String {
        self.metrics.values("oddswire_build_info", "version").first().map_or_else(String::new, |text| printable(text))
    }

    /// Seconds since the server started.
    pub(super) fn uptime(&self) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        (now - self.metrics.sum("oddswire_process_start_time_seconds")).max(0.0)
    }
}

fn taken(path: &str, answer: Answer) -> Result<bytes::Bytes, String> {
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        StatusCode::NOT_FOUND => Err(not_admin(path)),
        status => Err(format!("{path} answered {}", RefusedRequest::of(status, &answer.headers, &answer.body))),
    }
}

fn not_admin(path: &str) -> String {
    format!("the server has no {path}: set --url to the address of its --admin-listen")
}

/// Escapes texts that come from clients, so that they cannot send control characters to the terminal.
fn shown(mut connection: ConnectionFacts) -> ConnectionFacts {
    connection.subscriptions.iter_mut().for_each(|text| *text = printable(text));
    connection.peer = connection.peer.map(|text| printable(&text));
    connection
}

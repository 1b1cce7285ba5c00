//! The endpoints of the admin listener, for operators: metrics, health, and the list of connections. They require no
//! token, so the admin listener uses the loopback interface by default.

use std::convert::Infallible;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::{App, get, json, ops, recover, valid_host, with};
use crate::engine::Readiness;
use crate::manager::TopicCount;
use crate::metrics::{self, Reading, Values};
use crate::topic::Topic;

/// All endpoints of the admin listener.
pub fn all(app: &App) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let metrics = warp::path!("metrics").and(get()).and(with(app)).map(|app: App| expose(&app));
    let endpoints = metrics.or(connections(app)).unify().or(ops::routes(app)).unify();
    valid_host().and(endpoints).boxed().recover(recover).unify()
}

fn expose(app: &App) -> Response {
    let text = app.manager.metrics().expose(&readings(app));
    let mut response = Response::new(text.into());
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The current values of the gauges.
fn readings(app: &App) -> Vec<Reading> {
    let (overview, load) = (app.manager.overview(), app.manager.load());
    let plain = |name, help, value: usize| Reading { name, help, values: Values::Plain(value as u64) };
    let by_topic = |name, help, value: fn(&TopicCount) -> usize| {
        let of = |(topic, count): (&Topic, &TopicCount)| (topic.clone(), value(count) as u64);
        Reading { name, help, values: Values::ByTopic(overview.topics.iter().map(of).collect()) }
    };
    let available = app.engine.readiness() == Readiness::Ready;
    let mut readings = vec![
        plain("ready", "1 while it takes traffic, as /readyz says", usize::from(ops::is_ready(app))),
        plain("engine_available", "1 while messages can be published", usize::from(available)),
        plain("max_connections", "Clients that may be connected", app.config.max_connections),
        plain("outbox_bytes", "Bytes on their way to clients", load.outbox_bytes),
        plain("outbox_bytes_max", "Bytes on their way to the slowest client", load.outbox_bytes_max),
        plain("memory_budget_bytes", "Limit of the bytes in all outboxes together", load.memory_budget),
        plain("clients_behind", "Clients that are catching up", load.behind),
        by_topic("subscribers", "Clients subscribed to a topic", |count| count.subscribers),
        by_topic("keys", "Keys in a topic's state", |count| count.kept.keys),
        by_topic("history", "Messages in a topic's history", |count| count.kept.history),
    ];
    readings.extend(metrics::process());
    readings
}

/// `GET /api/connections`: lists the connections, sorted by queued bytes in descending order.
fn connections(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "connections").and(get()).and(with(app)).map(|app: App| {
        let connections = app.manager.connections();
        json(StatusCode::OK, &serde_json::json!({ "connections": connections }))
    })
}

//! `GET /api/topics`: who listens to what, and how much is kept.

use http::StatusCode;
use serde::Serialize;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::{App, get, json, with};
use crate::message::Position;

#[derive(Serialize)]
struct Body {
    connections: usize,
    topics: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    subscribers: usize,
    keys: usize,
    history: usize,
    position: Position,
}

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "topics").and(get()).and(with(app)).map(|app: App| {
        let position = app.manager.position();
        let entry = |(topic, count): (crate::topic::Topic, crate::manager::TopicCount)| Entry {
            name: topic.to_string(),
            subscribers: count.subscribers,
            keys: count.kept.keys,
            history: count.kept.history,
            position,
        };
        let topics = app.manager.topic_counts().into_iter().map(entry).collect();
        json(StatusCode::OK, &Body { connections: app.manager.active_count(), topics })
    })
}

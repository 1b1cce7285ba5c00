//! `GET /api/topics`: lists the topics, with the number of subscribers and the size of the log of each topic.

use http::StatusCode;
use serde::Serialize;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::access::{Incoming, incoming};
use super::{App, Refusal, get, json, respond, with};
use crate::manager::{Overview, TopicCount};
use crate::message::Position;
use crate::topic::Topic;

#[derive(Serialize)]
struct TopicList {
    connections: usize,
    topics: Vec<TopicRow>,
}

#[derive(Serialize)]
struct TopicRow {
    name: String,
    subscribers: usize,
    keys: usize,
    history: usize,
    position: Position,
}

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "topics")
        .and(get())
        .and(incoming())
        .and(with(app))
        .map(|incoming: Incoming, app: App| respond(list(&incoming, &app)))
}

fn list(incoming: &Incoming, app: &App) -> Result<Response, Refusal> {
    incoming.check_origin(app)?;
    incoming.access(app)?;
    let Overview { connections, topics, position } = app.manager.overview();
    let entry = |(topic, count): (Topic, TopicCount)| TopicRow {
        name: topic.to_string(),
        subscribers: count.subscribers,
        keys: count.kept.keys,
        history: count.kept.history,
        position,
    };
    Ok(json(StatusCode::OK, &TopicList { connections, topics: topics.into_iter().map(entry).collect() }))
}

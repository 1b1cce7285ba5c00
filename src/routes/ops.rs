//! `GET /healthz` (the process runs) and `GET /readyz` (the server takes traffic), for orchestrators and load
//! balancers.

use http::StatusCode;
use serde_json::json as value;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::{App, get, json, with};
use crate::engine::Readiness;

pub(super) fn routes(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let health = warp::path!("healthz").and(get()).map(|| json(StatusCode::OK, &value!({"status": "ok"})));
    let ready = warp::path!("readyz").and(get()).and(with(app)).map(|app: App| readiness(&app));
    health.or(ready).unify()
}

/// Whether the server takes traffic. A server with a degraded engine does: its clients get the last known state, and
/// new messages later. If the broker fails, all nodes are degraded, and degraded nodes are better than no nodes.
pub(super) fn is_ready(app: &App) -> bool {
    !app.draining.is_cancelled() && !matches!(app.engine.readiness(), Readiness::Starting(_))
}

fn readiness(app: &App) -> Response {
    let draining = app.draining.is_cancelled();
    let engine = app.engine.readiness();
    let ready = is_ready(app);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (engine, detail) = match engine {
        Readiness::Ready => ("ok", None),
        Readiness::Degraded(why) => ("degraded", Some(why)),
        Readiness::Starting(why) => ("starting", Some(why)),
    };
    let mut body = value!({"ready": ready, "draining": draining, "engine": engine});
    if let Some(detail) = detail {
        body["detail"] = detail.into();
    }
    json(status, &body)
}

//! `GET /healthz` (alive) and `GET /readyz` (takes traffic), for orchestrators and load balancers.

use http::StatusCode;
use serde_json::json as value;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::{App, get, json, with};

pub(super) fn routes(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let health = warp::path!("healthz").and(get()).map(|| json(StatusCode::OK, &value!({"status": "ok"})));
    let ready = warp::path!("readyz").and(get()).and(with(app)).map(|app: App| readiness(&app));
    health.or(ready).unify()
}

/// Whether it takes traffic.
pub(super) fn is_ready(app: &App) -> bool {
    !app.draining.is_cancelled() && app.engine.ready().is_ok()
}

fn readiness(app: &App) -> Response {
    let draining = app.draining.is_cancelled();
    let engine = app.engine.ready();
    let ready = !draining && engine.is_ok();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let engine = engine.err().unwrap_or_else(|| "ok".to_owned());
    json(status, &value!({"ready": ready, "draining": draining, "engine": engine}))
}

//! `POST /api/publish` and `POST /api/broadcast`: checks the publisher's token and rate, and answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use slog::{debug, info};
use tokio::time::timeout;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::access::{Incoming, incoming};
use super::body::{self, BodyStream, Format};
use super::drafts;
use super::{App, Refusal, json, method, respond, with};
use crate::auth::Publisher;
use crate::engine::{IdempotencyKey, MAX_IDEMPOTENCY_KEY_BYTES, PublishError};
use crate::rate::Bucket;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) fn routes(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let post = || method(&[Method::POST], "POST").and(incoming()).and(warp::body::stream()).and(with(app));
    let publish = warp::path!("api" / "publish")
        .and(post())
        .then(|incoming, body, app: App| async move { answer(publish(&incoming, body, &app).await, &app) });
    let broadcast = warp::path!("api" / "broadcast")
        .and(post())
        .then(|incoming, body, app: App| async move { answer(broadcast(&incoming, body, &app).await, &app) });
    publish.or(broadcast).unify()
}

/// The maximum wait for the engine. Without it, a disk that hangs would keep the request and its batch in memory
/// forever.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(30);

fn answer(result: Result<Response, Refusal>, app: &App) -> Response {
    if let Err(refusal) = &result {
        info!(app.logger, "publish.rejected"; "code" => refusal.code, "detail" => &refusal.detail,
            "status" => refusal.status.as_u16());
    }
    respond(result)
}

async fn publish(incoming: &Incoming, stream: impl BodyStream, app: &App) -> Result<Response, Refusal> {
    let began = Instant::now();
    let publisher = authorise(incoming, app)?;
    let format = Format::of(&incoming.headers, &[Format::Json, Format::Lines])?;
    let body = body::read(&incoming.headers, stream, app.config.publish_body_bytes, "publish-body-bytes", app).await?;
    let key = idempotency_key(&incoming.headers, &publisher, &body)?;
    if let Some(key) = &key
        && let Some(first) = app.engine.answered(key).await?
    {
        return Ok(json(StatusCode::OK, &first));
    }
    let batch = drafts::parse(&body, format, app)?;
    if let Some((index, draft)) = batch.iter().enumerate().find(|(_, draft)| !publisher.may_publish(&draft.topic)) {
        let detail = format!("the publisher '{}' may not publish to '{}'", publisher.name, draft.topic);
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail).at(index));
    }
    let taken = timeout(ENGINE_TIMEOUT, app.engine.publish(batch, key)).await.unwrap_or_else(|_| {
        let reason = format!("the engine has not answered within {} s", ENGINE_TIMEOUT.as_secs());
        Err(PublishError::Unknown(reason))
    })?;
    app.manager.metrics().publish_taken(&publisher.name, began.elapsed());
    debug!(app.logger, "publish.accepted"; "publisher" => &publisher.name, "messages" => taken.counts.accepted);
    Ok(json(StatusCode::OK, &taken))
}

async fn broadcast(incoming: &Incoming, stream: impl BodyStream, app: &App) -> Result<Response, Refusal> {
    let publisher = authorise(incoming, app)?;
    if !publisher.is_unlimited() {
        let detail =
            format!("the publisher '{}' is limited to topics: a broadcast goes to all clients", publisher.name);
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    Format::of(&incoming.headers, &[Format::Json])?;
    let limit = app.config.publish_message_bytes;
    let body = body::read(&incoming.headers, stream, limit, "publish-message-bytes", app).await?;
    let connections = app.engine.broadcast(drafts::broadcast(&body)?).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "connections": connections })))
}

/// Finds the publisher with the request's bearer token. If no publishers are configured, the error names the settings
/// that add them.
fn authorise(incoming: &Incoming, app: &App) -> Result<Publisher, Refusal> {
    incoming.check_origin(app)?;
    let publishers = app.publishers();
    if publishers.is_empty() {
        let detail = "publishing is off: set publish-token (ODDSWIRE_PUBLISH_TOKEN) or publish-token-file to enable it";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "publishing_disabled", detail));
    }
    let given = incoming.bearer();
    let Some(publisher) = given.and_then(|token| publishers.find(token)) else {
        let detail = if given.is_some() {
            "the bearer token belongs to no publisher"
        } else {
            "publishing needs the header 'Authorization: Bearer <token>'"
        };
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        return Err(refusal.with_header(WWW_AUTHENTICATE, "Bearer"));
    };
    app.publish_rates.take(&publisher.name, app.config.publishes_per_second)?;
    Ok(publisher.clone())
}

/// A token bucket for each publisher, by name. The operator configures all publishers, so the map stays small.
#[derive(Debug, Clone, Default)]
pub struct PublishRates(Arc<Mutex<HashMap<String, Bucket>>>);

impl PublishRates {
    /// Counts a request, and refuses it with 429 if the rate is exceeded. A rate of 0 means no limit.
    fn take(&self, publisher: &str, per_second: usize) -> Result<(), Refusal> {
        let Some(rate) = u32::try_from(per_second).ok().filter(|rate| *rate > 0) else { return Ok(()) };
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket =
            buckets.entry(publisher.to_owned()).or_insert_with(|| Bucket::new(rate, rate.saturating_mul(2), now));
        bucket.take(now).map_err(|_| {
            let detail =
                format!("'{publisher}' publishes more than {rate} times a second (publishes-per-second): send batches");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_publishes", detail).with_header(RETRY_AFTER, "1")
        })
    }
}

/// Reads the `Idempotency-Key`, and adds the publisher's name, so that no other publisher gets the answer.
fn idempotency_key(headers: &HeaderMap, publisher: &Publisher, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_valid = |key: &&str| (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()) && !key.contains('\t');
    let key = value.to_str().ok().filter(is_valid);
    let key = key.ok_or_else(|| {
        let rule = format!("Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
        Refusal::bad_request(rule)
    })?;
    Ok(Some(IdempotencyKey::new(format!("{} {key}", publisher.name), body)))
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::StateFull(full) => Self::new(StatusCode::BAD_REQUEST, "state_full", detail).at(full.index),
            PublishError::KeyReused => Self::new(StatusCode::CONFLICT, "idempotency_key_reused", detail),
            PublishError::Unavailable(_) => Self::unavailable(detail),
            PublishError::Unknown(_) => {
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail);
                refusal.with_header(RETRY_AFTER, "1")
            }
        }
    }
}

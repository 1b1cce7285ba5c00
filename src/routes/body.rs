//! Reads the bodies of publishers' requests, with limits on bytes and time.

use bytes::Buf;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use tokio_stream::{Stream, StreamExt as _};

use super::{App, Refusal};
use crate::shortened::shortened;

/// The first two bytes of gzip data (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Lines,
}

impl Format {
    pub(super) fn of(headers: &HeaderMap, possible: &[Self]) -> Result<Self, Refusal> {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        let format = possible.iter().find(|format| format.name().eq_ignore_ascii_case(essence));
        format.copied().ok_or_else(|| {
            let names: Vec<&str> = possible.iter().map(|format| format.name()).collect();
            let shown = shortened(essence);
            let detail = format!("Content-Type is '{shown}': expected {}", names.join(" or "));
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
        }
    }
}

pub(super) trait BodyStream: Stream<Item = Result<Self::Chunk, warp::Error>> + Send {
    type Chunk: Buf;
}

impl<S, B> BodyStream for S
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    type Chunk = B;
}

/// Reads the body, up to `limit` bytes. Does not read a body that the headers declare as longer or as compressed.
pub(super) async fn read(
    headers: &HeaderMap,
    body: impl BodyStream,
    limit: usize,
    setting: &str,
    app: &App,
) -> Result<Vec<u8>, Refusal> {
    check_coding(headers)?;
    let within = app.config.publish_body_timeout;
    let body = tokio::time::timeout(within, collect(headers, body, limit, setting)).await.unwrap_or_else(|_| {
        let within = humantime::format_duration(within);
        let detail = format!("the body was not complete within {within} (publish-body-timeout)");
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
    })?;
    if body.starts_with(&GZIP) {
        return Err(compressed("the body is gzip: send it uncompressed".to_owned()));
    }
    Ok(body)
}

/// Refuses a body whose Content-Encoding is a compression.
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let codings = headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    for coding in codings {
        if !matches!(coding.trim().to_ascii_lowercase().as_str(), "" | "identity") {
            let shown = shortened(&coding);
            return Err(compressed(format!("Content-Encoding is '{shown}': send the body uncompressed")));
        }
    }
    Ok(())
}

/// Makes a refusal with status 415, which names the accepted content coding (RFC 9110, sections 12.5.3 and 15.5.16).
fn compressed(detail: String) -> Refusal {
    let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
    refusal.with_header(ACCEPT_ENCODING, "identity")
}

async fn collect(headers: &HeaderMap, body: impl BodyStream, limit: usize, setting: &str) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        let detail =
            format!("the body is longer than {limit} bytes, which is the limit ({setting}): send less at once");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut collected = Vec::new();
    let mut body = std::pin::pin!(body);
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|error| Refusal::bad_request(format!("the body ended early: {error}")))?;
        if collected.len() + chunk.remaining() > limit {
            return Err(too_large());
        }
        while chunk.has_remaining() {
            let slice = chunk.chunk();
            collected.extend_from_slice(slice);
            let length = slice.len();
            chunk.advance(length);
        }
    }
    Ok(collected)
}

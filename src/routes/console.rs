//! `GET /` and `GET /console/…`: the console, a page that shows topics and messages. The program contains the page.
//!
//! All URLs in the files are relative, so that the page works behind a proxy that adds a prefix.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use warp::reply::{Reply as _, Response};
use warp::{Filter, Rejection};

use super::access::{Incoming, incoming};
use super::docs::etag_of;
use super::{App, get};

/// The page may load its own files and connect to its own server. `'self'` includes `ws:` and `wss:` (Content Security
/// Policy Level 3; Chromium 71, Firefox, Safari 16). Trusted Types forbid scripts to turn text into markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The name of the page itself. It is empty because the URL of the page is `/`.
const PAGE: &str = "";

/// A file of the console.
struct File {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

const fn html(name: &'static str, content: &'static str) -> File {
    File { name, content_type: "text/html; charset=utf-8", content }
}

const fn style(name: &'static str, content: &'static str) -> File {
    File { name, content_type: "text/css; charset=utf-8", content }
}

const fn script(name: &'static str, content: &'static str) -> File {
    File { name, content_type: "text/javascript; charset=utf-8", content }
}

const fn image(name: &'static str, content: &'static str) -> File {
    File { name, content_type: "image/svg+xml", content }
}

static FILES: [File; 23] = [
    html(PAGE, include_str!("../../console/index.html")),
    style("console.css", include_str!("../../console/console.css")),
    image("icon.svg", include_str!("../../console/icon.svg")),
    script("cells.js", include_str!("../../console/cells.js")),
    script("commands.js", include_str!("../../console/commands.js")),
    script("console.js", include_str!("../../console/console.js")),
    script("drawer.js", include_str!("../../console/drawer.js")),
    script("elements.js", include_str!("../../console/elements.js")),
    script("empty.js", include_str!("../../console/empty.js")),
    script("feed.js", include_str!("../../console/feed.js")),
    script("fixtures.js", include_str!("../../console/fixtures.js")),
    script("format.js", include_str!("../../console/format.js")),
    script("gaps.js", include_str!("../../console/gaps.js")),
    script("header.js", include_str!("../../console/header.js")),
    script("progress.js", include_str!("../../console/progress.js")),
    script("rate.js", include_str!("../../console/rate.js")),
    script("rows.js", include_str!("../../console/rows.js")),
    script("shortcuts.js", include_str!("../../console/shortcuts.js")),
    script("table.js", include_str!("../../console/table.js")),
    script("timeline.js", include_str!("../../console/timeline.js")),
    script("token.js", include_str!("../../console/token.js")),
    script("topics.js", include_str!("../../console/topics.js")),
    script("oddswire.js", include_str!("../../clients/js/dist/oddswire.js")),
];

pub(super) fn routes(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let is_served = app.config.console;
    let page = warp::path::end().map(|| PAGE.to_owned());
    let name = page.or(warp::path!("console" / String)).unify();
    let file = name.and_then(move |name: String| async move {
        let file = FILES.iter().find(|file| is_served && file.name == name);
        file.ok_or_else(warp::reject::not_found)
    });
    file.and(get()).and(incoming()).map(|file: &'static File, incoming: Incoming| respond(file, &incoming))
}

fn respond(file: &'static File, incoming: &Incoming) -> Response {
    let etag = etag_of(file.content);
    let mut response = if incoming.holds(&etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(file.content.into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
        response
    };
    let headers = response.headers_mut();
    let etag = HeaderValue::from_str(&etag).expect("hexadecimal digits and quotes are a valid header value");
    headers.insert(ETAG, etag);
    // Browsers check each time whether a file has changed, and mostly get a 304. So they show the new page of a new
    // program version at once.
    for (name, value) in [
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

//! Who may publish and who may listen: tokens, what they allow, and how long.

use std::fmt::Write as _;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header};
use oddswire::config::Config;
use serde_json::{Value, json};

use crate::harness::get::{code, get};
use crate::harness::jwt::{self, File, Pair, SECRET, claims, expiring, now, token};
use crate::harness::raw::Raw;
use crate::harness::{Answer, App, TOKEN, eventually, sse, within, ws};
use crate::process::Process;

/// Everything that asks for a subscriber's token.
const READS: [&str; 4] = ["/api/ws", "/api/sse", "/api/topics", "/api/topics/odds_updates/state"];
const ODDS: &str = r#"{"topic":"odds_updates","data":1}"#;
const PROGRESS: &str = r#"{"topic":"scrape_progress","data":1}"#;

// Publishers.

async fn with_publishers(file: &File) -> App {
    App::with(|config| config.publish_token_file = Some(file.0.clone())).await
}

async fn post(app: &App, path: &str, token: &str, body: &str) -> Answer {
    let request = app.request(reqwest::Method::POST, path).bearer_auth(token);
    Answer::of(request.header("content-type", "application/json").body(body.to_owned())).await
}

#[tokio::test]
async fn a_publisher_with_topics_publishes_to_those_only() {
    let file =
        File::new("# ours\nscraper:s-token:odds_updates\n\nboth:b-token:odds_updates, scrape_progress\nall:a-token\n");
    let app = with_publishers(&file).await;
    let cases = [
        ("s-token", format!("[{ODDS},{ODDS}]"), None),
        ("s-token", PROGRESS.to_owned(), Some(0)),
        ("s-token", format!("[{ODDS},{ODDS},{PROGRESS},{PROGRESS}]"), Some(2)),
        ("b-token", format!("[{ODDS},{PROGRESS}]"), None),
        ("a-token", format!("[{ODDS},{PROGRESS}]"), None),
        (TOKEN, format!("[{ODDS},{PROGRESS}]"), None),
    ];
    let mut taken = 0;
    for (token, body, refused) in cases {
        let answer = post(&app, "/api/publish", token, &body).await;
        if let Some(index) = refused {
            assert_eq!((answer.status, answer.code()), (403, "forbidden"), "{token}: {body}");
            assert_eq!(answer.body["error"]["index"], index, "{body}");
            let detail = answer.detail();
            assert!(detail.contains("'scraper'") && detail.contains("'scrape_progress'"), "{detail}");
        } else {
            assert_eq!((answer.status, &answer.body["accepted"]), (200, &json!(2)), "{token}: {}", answer.text);
            taken += 2;
        }
        assert_eq!(app.manager.position().offset, taken, "a refused request is refused whole: {body}");
    }
}

#[tokio::test]
async fn a_publisher_with_topics_may_not_broadcast_not_even_with_all_of_them() {
    let file = File::new("some:s-token:odds_updates\nevery:e-token:odds_updates,scrape_progress\nall:a-token\n");
    let app = with_publishers(&file).await;
    let mut client = app.ws("").await;
    for (token, name) in [("s-token", "'some'"), ("e-token", "'every'")] {
        let answer = post(&app, "/api/broadcast", token, r#"{"type":"notice","data":1}"#).await;
        assert_eq!((answer.status, answer.code()), (403, "forbidden"));
        assert!(answer.detail().contains(name) && answer.detail().contains("limited to topics"), "{}", answer.detail());
    }
    client.nothing_came().await;
    for token in ["a-token", TOKEN] {
        assert_eq!(post(&app, "/api/broadcast", token, r#"{"type":"notice","data":1}"#).await.status, 200, "{token}");
        client.expect("notice").await;
    }
}

#[tokio::test]
async fn what_is_not_exactly_a_publishers_token_is_401() {
    let file = File::new("scraper:s-token\nbackend:b-token\n");
    let app = with_publishers(&file).await;
    for given in ["s-toke", "s-tokenn", "S-token", "scraper", "scraper:s-token", "s-token:", "s-token b-token", "#"] {
        for (path, body) in [("/api/publish", ODDS), ("/api/broadcast", r#"{"type":"notice","data":1}"#)] {
            let answer = post(&app, path, given, body).await;
            assert_eq!((answer.status, answer.code()), (401, "unauthorized"), "{given}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert!(!answer.text.contains(given) || given == "#", "{}", answer.text);
        }
    }
    assert_eq!(app.manager.position().offset, 0);
}

async fn serving(file: &File) -> Process {
    let settings = [("ODDSWIRE_PUBLISH_TOKEN_FILE", file.path()), ("ODDSWIRE_LOG_LEVEL", "debug")];
    Process::start(&[], &settings).await
}

#[tokio::test]
async fn at_sighup_a_new_token_is_taken_and_an_old_one_refused() {
    let file = File::new("scraper:old-token\nbackend:same-token\n");
    let mut process = serving(&file).await;
    assert_eq!([process.publish("old-token").await, process.publish("new-token").await], [200, 401]);
    file.write("scraper:new-token\nbackend:same-token:scrape_progress\n");
    assert_eq!(process.publish("old-token").await, 200, "nobody said that the file is another");
    let mut client = ws::Client::connect(process.address, "").await;
    process.signal("HUP");
    process.event("config.reloaded").await;
    assert_eq!([process.publish("old-token").await, process.publish("new-token").await], [401, 200]);
    assert_eq!(process.publish("same-token").await, 403, "its topics are new, too");
    client.expect("odds_updates").await;
    client.nothing_came().await;
}

#[tokio::test]
async fn at_sighup_a_broken_file_leaves_the_publishers_as_they_were_and_is_logged() {
    let file = File::new("scraper:first-secret\n");
    let mut process = serving(&file).await;
    let broken = [
        ("", "it has no publisher"),
        ("# nobody\n", "it has no publisher"),
        ("scraper:second-secret\nscraper:third-secret\n", "line 2: the name 'scraper' stands twice"),
        ("good:second-secret\nno name:third-secret\n", "line 2: expected name:token[:topics]"),
        ("scraper:\n", "line 1: expected 1 or more visible ASCII characters"),
        ("scraper:second-secret:nowhere\n", "line 1: its third part must list topics"),
    ];
    for (contents, reason) in broken {
        file.write(contents);
        process.signal("HUP");
        let error = process.event("config.reload_failed").await["error"].to_string();
        for says in ["publish-token-file", file.path(), reason] {
            assert!(error.contains(says), "{says}: {error}");
        }
        assert_eq!([process.publish("first-secret").await, process.publish("second-secret").await], [200, 401]);
    }
    std::fs::remove_file(&file.0).unwrap();
    process.signal("HUP");
    assert!(process.event("config.reload_failed").await["error"].to_string().contains("No such file"));
    assert_eq!(process.publish("first-secret").await, 200);
    process.signal("TERM");
    let log = process.end().await.stderr;
    assert!(!log.contains("-secret"), "{log}");
}

#[tokio::test]
async fn the_log_has_the_publishers_name_and_never_its_token() {
    let file = File::new("scraper:s-token:odds_updates\n");
    let mut process = serving(&file).await;
    assert_eq!(process.publish("s-token").await, 200);
    let accepted = process.event("publish.accepted").await;
    assert_eq!((&accepted["publisher"], &accepted["messages"]), (&json!("scraper"), &json!(1)));
    assert_eq!(process.post("/api/publish", "s-token", PROGRESS).await.status, 403);
    let rejected = process.event("publish.rejected").await;
    assert!(rejected["detail"].to_string().contains("'scraper'"), "{rejected}");
    assert_eq!(process.publish("guessed-token").await, 401);
    process.signal("TERM");
    let log = process.end().await.stderr;
    assert!(!log.contains("s-token") && !log.contains("guessed-token"), "{log}");
}

// Subscribers: who is let in.

async fn start() -> App {
    App::with(jwt::required).await
}

/// Every way in is refused to this token, with this reason.
async fn refused(app: &App, token: Option<&str>, as_code: &str, reason: &str) {
    let header = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = header.iter().map(|value| ("Authorization", value.as_str())).collect();
    for path in READS {
        let (_, response) = get(app.address, path, &headers).await;
        assert_eq!((response.status, code(&response)), (401, as_code), "{path}, {reason}: {response:?}");
        assert!(response.detail().contains(reason), "{path}, {reason}: {response:?}");
        assert_eq!(response.header("www-authenticate"), "Bearer");
        assert!(token.is_none_or(|token| !response.detail().contains(token)), "{response:?}");
    }
    assert_eq!(app.manager.active_count(), 0);
}

async fn admitted(app: &App, token: &str) {
    for path in READS {
        let (_, response) = get(app.address, path, &[("Authorization", &format!("Bearer {token}"))]).await;
        assert!(matches!(response.status, 101 | 200), "{path}: {response:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_everywhere_with_the_reason() {
    let app = start().await;
    let good = token(&claims(&["*"]));
    let (body, signature) = good.split_once('.').unwrap().1.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"; // {"alg":"none","typ":"JWT"}
    let other = jwt::signed(&Header::new(Algorithm::HS256), &claims(&["*"]), "another-secret-of-at-least-32-bytes");
    let hs512 = jwt::signed(&Header::new(Algorithm::HS512), &claims(&["*"]), SECRET);
    let with = |name: &str, value: Value| {
        let mut claims = claims(&["*"]);
        claims[name] = value;
        token(&claims)
    };
    let another_body = token(&claims(&["odds_updates"]));
    let forged = format!("{}.{signature}", another_body.rsplit_once('.').unwrap().0);
    let cases = [
        (other, "its signature is wrong"),
        (forged, "its signature is wrong"),
        (format!("{none}.{body}."), "no JSON Web Token"),
        (format!("{none}.{body}.{signature}"), "no JSON Web Token"),
        (hs512, "no key of the server fits"),
        ("eyJ".to_owned(), "no JSON Web Token"),
        (SECRET.to_owned(), "no JSON Web Token"),
        (with("nbf", json!(now() + 60)), "not valid yet (nbf)"),
        (token(&json!({"topics": ["*"]})), "no claim 'exp'"),
        (with("exp", json!(-1)), "the token"),
        (with("exp", json!("tomorrow")), "'exp' is a number"),
        (with("topics", json!("odds_updates")), "'topics' a list of strings"),
        (with("topics", json!([1])), "'topics' a list of strings"),
        (with("topics", json!(["Odds!"])), "no list of subscriptions"),
    ];
    for (token, reason) in cases {
        refused(&app, Some(&token), "unauthorized", reason).await;
    }
    refused(&app, None, "unauthorized", "a token is required").await;
    refused(&app, Some(&expiring(-31)), "token_expired", "has expired").await;
    refused(&app, Some(&expiring(-3600)), "token_expired", "has expired").await;
    admitted(&app, &good).await;
}

#[tokio::test]
async fn clocks_may_differ_by_30_seconds() {
    let app = start().await;
    admitted(&app, &expiring(-20)).await;
    admitted(&app, &token(&json!({"exp": now() + 3600, "nbf": now() + 30, "topics": ["*"]}))).await;
}

#[tokio::test]
async fn a_time_may_have_a_fraction() {
    // RFC 7519, section 2: what Python's `time.time() + 3600` becomes.
    let app = start().await;
    let seconds = f64::from(i32::try_from(now()).unwrap());
    admitted(&app, &token(&json!({"exp": seconds + 3600.5, "nbf": seconds - 0.5, "topics": ["*"]}))).await;
}

#[tokio::test]
async fn a_token_comes_by_header_query_or_cookie() {
    let app = App::with(|config| {
        jwt::required(config);
        config.subscriber_cookie = Some("session".to_owned());
    })
    .await;
    let token = token(&claims(&["*"]));
    let (bearer, lower) = (format!("Bearer {token}"), format!("bearer {token}"));
    let (cookie, among) = (format!("session={token}"), format!("theme=dark; session={token};session_id=7"));
    let query = format!("?token={token}");
    let ways = [
        ("", Some(("Authorization", &bearer)), true),
        ("", Some(("Authorization", &lower)), true),
        (query.as_str(), None, true),
        ("", Some(("Cookie", &cookie)), true),
        ("", Some(("Cookie", &among)), true),
        ("", Some(("Cookie", &query)), false),
        ("?token=", None, false),
    ];
    for (query, header, good) in ways {
        for path in READS {
            let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let (_, response) = get(app.address, &format!("{path}{query}"), &headers).await;
            assert_eq!(matches!(response.status, 101 | 200), good, "{path}{query} {headers:?}: {response:?}");
        }
    }
    let no_cookie = start().await;
    let (_, response) = get(no_cookie.address, "/api/ws", &[("Cookie", &cookie)]).await;
    assert_eq!(response.status, 401, "no cookie is configured");
}

#[tokio::test]
async fn publishing_and_health_ask_for_no_subscribers_token_and_take_none() {
    let app = start().await;
    app.odds("1", 1).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(app.get(path).await.status, 200);
    }
    let subscriber = token(&claims(&["*"]));
    assert_eq!(post(&app, "/api/publish", &subscriber, ODDS).await.status, 401);
    assert_eq!(get(app.address, &format!("/api/ws?token={TOKEN}"), &[]).await.1.status, 401);
}

// Subscribers: keys of an issuer.

fn set(keys: &[Value]) -> File {
    File::new(&json!({"keys": keys}).to_string())
}

async fn with_keys(file: &File) -> App {
    App::with(|config| config.subscriber_jwks_file = Some(file.0.clone())).await
}

#[tokio::test]
async fn tokens_of_a_key_set_are_good_for_rs256_es256_and_eddsa_and_for_their_own_key_only() {
    let algorithms = [("rsa", Algorithm::RS256), ("ec", Algorithm::ES256), ("ed", Algorithm::EdDSA)];
    let pairs = algorithms.map(|(id, algorithm)| (id, Pair::generate(algorithm)));
    let file = set(&pairs.each_ref().map(|(id, pair)| pair.public(id)));
    let app = with_keys(&file).await;
    for (at, (id, pair)) in pairs.iter().enumerate() {
        admitted(&app, &pair.sign(Some(id), &claims(&["*"]))).await;
        admitted(&app, &pair.sign(None, &claims(&["*"]))).await;
        let expired = json!({"exp": now() - 31, "topics": ["*"]});
        refused(&app, Some(&pair.sign(Some(id), &expired)), "token_expired", "has expired").await;
        refused(&app, Some(&pair.sign(Some("gone"), &claims(&["*"]))), "unauthorized", "no key of the server").await;
        let (another, _) = &pairs[(at + 1) % 3];
        refused(&app, Some(&pair.sign(Some(another), &claims(&["*"]))), "unauthorized", "no key of the server").await;
        let stranger = Pair::generate(algorithms[at].1).sign(Some(id), &claims(&["*"]));
        refused(&app, Some(&stranger), "unauthorized", "its signature is wrong").await;
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret_and_a_secret_no_key() {
    let pair = Pair::generate(Algorithm::RS256);
    let public = pair.public("rsa");
    let file = set(std::slice::from_ref(&public));
    let app = with_keys(&file).await;
    // Whoever knows the public key may try it as the secret of HS256, in each way to write it down.
    let header = Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::HS256) };
    for secret in [public["n"].as_str().unwrap(), &public.to_string(), &std::fs::read_to_string(&file.0).unwrap()] {
        let confused = jwt::signed(&header, &claims(&["*"]), secret);
        refused(&app, Some(&confused), "unauthorized", "no key of the server fits").await;
    }
    let of_secret = start().await;
    refused(&of_secret, Some(&pair.sign(None, &claims(&["*"]))), "unauthorized", "no key of the server fits").await;
}

#[tokio::test]
async fn keys_of_a_set_that_are_for_something_else_are_left_aside() {
    let [good, other] = [Algorithm::ES256, Algorithm::RS256].map(Pair::generate);
    let with = |name: &str, value: &str| {
        let mut key = other.public("other");
        key[name] = json!(value);
        key
    };
    let strange = json!({"kty": "OKP", "crv": "X448", "x": "AAAA", "kid": "strange"});
    let keys = [with("use", "enc"), with("alg", "RSA-OAEP"), with("alg", "RS512"), strange, good.public("good")];
    let app = with_keys(&set(&keys)).await;
    admitted(&app, &good.sign(Some("good"), &claims(&["*"]))).await;
    let token = other.sign(Some("other"), &claims(&["*"]));
    let (_, response) = get(app.address, &format!("/api/topics?token={token}"), &[]).await;
    assert_eq!((response.status, code(&response)), (401, "unauthorized"), "a key for encryption signs nothing");
}

#[test]
fn a_secret_or_a_key_set_that_cannot_be_used_is_refused_at_the_start_with_its_setting() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::defaults();
        change(&mut config);
        config.check().expect_err("it cannot be used").to_string()
    };
    let secret = |length: usize| "s".repeat(length);
    let short = refused(&|config| config.subscriber_jwt_secret = Some(secret(31).parse().unwrap()));
    assert!(short.contains("subscriber-jwt-secret has 31 bytes") && short.contains("32 or more"), "{short}");
    let file = File::new(&format!("{}\n", secret(32)));
    let mut edge = Config::defaults();
    edge.subscriber_jwt_secret_file = Some(file.0.clone());
    assert_eq!(edge.check().unwrap().subscriber_jwt_secret.unwrap().expose(), secret(32));

    let octets = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}).to_string();
    let cases = [
        ("", "not a JSON Web Key Set"),
        ("{}", "not a JSON Web Key Set"),
        (r#"{"keys":[]}"#, "no key that signs with RS256, ES256 or EdDSA"),
        (octets.as_str(), "no key that signs with RS256, ES256 or EdDSA"),
    ];
    for (contents, reason) in cases {
        let file = File::new(contents);
        let error = refused(&|config| config.subscriber_jwks_file = Some(file.0.clone()));
        for says in ["subscriber-jwks-file", file.path(), reason] {
            assert!(error.contains(says), "{says}: {error}");
        }
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}

// Subscribers: what they may.

/// What a token grants, what the query asks for, and the topics that come of it or the one that is refused.
type Case<'a> = (&'a [&'a str], &'a str, Result<&'a [&'a str], &'a str>);

#[tokio::test]
async fn a_connection_gets_what_its_token_allows_and_asks_for_no_more() {
    let app = start().await;
    let all = &["odds_updates", "scrape_progress"][..];
    let cases: [Case<'_>; 11] = [
        (&["*"], "", Ok(all)),
        (&["*"], "odds_updates/1", Ok(&["odds_updates/1"])),
        (&["odds_updates"], "", Ok(&["odds_updates"])),
        (&["odds_updates"], "odds_updates/8301/1x2", Ok(&["odds_updates/8301/1x2"])),
        (&["odds_updates"], "odds_updates,scrape_progress", Err("'scrape_progress'")),
        (&["odds_updates/8301", "odds_updates/77"], "", Ok(&["odds_updates/77", "odds_updates/8301"])),
        (&["odds_updates/8301"], "odds_updates/8301/1x2", Ok(&["odds_updates/8301/1x2"])),
        (&["odds_updates/8301"], "odds_updates", Err("'odds_updates'")),
        (&["odds_updates/8301"], "odds_updates/83011", Err("'odds_updates/83011'")),
        (&[], "", Ok(&[])),
        (&[], "odds_updates", Err("'odds_updates'")),
    ];
    for (granted, asked, outcome) in cases {
        let query = format!("token={}&topics={asked}", token(&claims(granted)));
        match outcome {
            Ok(topics) => {
                assert_eq!(app.ws(&query).await.ack["topics"], json!(topics), "{granted:?}, {asked}");
                let ack = app.sse(&query).await.ack;
                assert_eq!(ack["topics"], json!(topics), "{granted:?}, {asked}");
                assert!(ack["data"]["expires_at"].as_str().is_some_and(|at| at.contains(".000Z")), "{ack}");
            }
            Err(named) => {
                for path in ["/api/ws", "/api/sse"] {
                    let (_, response) = get(app.address, &format!("{path}?{query}"), &[]).await;
                    assert_eq!((response.status, code(&response)), (403, "forbidden"), "{granted:?}, {asked}");
                    let detail = response.detail();
                    assert!(detail.contains(named) && detail.contains("claim 'topics'"), "{detail}");
                    let all = response.body["error"]["topics"].as_array().unwrap().clone();
                    let quoted: Vec<String> = all.iter().map(|name| format!("'{}'", name.as_str().unwrap())).collect();
                    assert_eq!(quoted.join(", "), named, "for programs, too");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_token_without_the_claim_topics_allows_none() {
    let app = start().await;
    let token = token(&json!({"exp": now() + 3600}));
    let mut client = app.ws(&format!("token={token}")).await;
    assert_eq!(client.ack["topics"], json!([]));
    app.odds("1", 1).await;
    client.nothing_came().await;
    let state = app.get(&format!("/api/topics/odds_updates/state?token={token}")).await;
    assert_eq!((state.status, state.code()), (403, "forbidden"));
}

#[tokio::test]
async fn a_read_is_within_what_the_token_allows() {
    let app = start().await;
    app.odds("8301/1x2", 1).await;
    app.odds("77/1x2", 2).await;
    let token = token(&claims(&["odds_updates/8301"]));
    for (path, allowed) in [
        ("odds_updates/state?key=8301&", true),
        ("odds_updates/state?key=8301/1x2&", true),
        ("odds_updates/state?", false),
        ("odds_updates/state?key=77&", false),
        ("odds_updates/state?key=830&", false),
        ("scrape_progress/state?", false),
    ] {
        let answer = app.get(&format!("/api/topics/{path}token={token}")).await;
        if allowed {
            assert_eq!((answer.status, &answer.body["items"][0]["data"]), (200, &json!(1)), "{path}");
        } else {
            assert_eq!((answer.status, answer.code()), (403, "forbidden"), "{path}");
            assert!(answer.detail().contains("claim 'topics'"), "{}", answer.detail());
        }
    }
}

#[tokio::test]
async fn of_a_subscribe_beyond_the_token_the_allowed_part_takes_effect() {
    let app = start().await;
    let mut client =
        app.ws(&format!("token={}&topics=odds_updates/8301/ou", token(&claims(&["odds_updates/8301"])))).await;
    let asked = r#"{"type":"subscribe","topics":["odds_updates/8301/1x2","odds_updates/77","foo","scrape_progress"]}"#;
    client.send(asked).await;
    let update = client.expect("subscription_update").await;
    assert_eq!(update["topics"], json!(["odds_updates/8301/1x2", "odds_updates/8301/ou"]));
    let mut errors = [client.expect("error").await, client.expect("error").await];
    errors.sort_by_key(|error| error["data"]["code"].to_string());
    assert_eq!(
        (&errors[0]["data"]["code"], &errors[1]["data"]["code"]),
        (&json!("forbidden"), &json!("unknown_topic"))
    );
    assert_eq!(errors[0]["data"]["topics"], json!(["odds_updates/77", "scrape_progress"]));
    assert!(errors[0]["data"]["detail"].to_string().contains("claim 'topics'"), "{}", errors[0]);
    for key in ["77/1x2", "8301/other", "8301/1x2/a"] {
        app.odds(key, key).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "data": 1})).await;
    assert_eq!(client.expect("odds_updates").await["data"], "8301/1x2/a");
    client.nothing_came().await;
}

// Subscribers: until when.

#[tokio::test]
async fn a_connection_ends_when_its_token_does() {
    let app = start().await;
    // The second is let in for a clock that differs: it ends when the 30 seconds do.
    for (seconds, ends) in [(2, 2), (-27, 3)] {
        let begun = now();
        let query = format!("token={}", expiring(seconds));
        let (mut client, mut events) = (app.ws(&query).await, app.sse(&query).await);
        let frame = client.closed().await.expect("a code");
        assert_eq!(u16::from(frame.code), 4401);
        assert!(frame.reason.contains("expired"), "{}", frame.reason);
        assert!(events.event().await.is_none(), "the stream ends");
        assert!(now() >= begun + ends, "not before its time");
        drop((client, events));
        app.connections(0).await;
    }
}

#[tokio::test]
async fn what_is_published_after_its_token_expired_does_not_reach_a_client_that_did_not_read() {
    let app = App::with(|config| {
        jwt::required(config);
        config.write_timeout = Duration::from_hours(1);
    })
    .await;
    let query = format!("token={}", expiring(4));
    let narrow = async || crate::harness::narrow_socket(app.address).await;
    let mut client = ws::Client::over(narrow().await, app.address, &query).await;
    let mut events = sse::Client::over(narrow().await, &query).await;
    // More than the sockets and the outbox hold.
    let padding = "x".repeat(60_000);
    for at in 0..60 {
        app.odds(&at.to_string(), padding.as_str()).await;
    }
    // Whoever is told that a later token has expired knows that the earlier one has, too.
    let mut later = app.ws(&format!("token={}", expiring(5))).await;
    assert_eq!(u16::from(later.closed().await.expect("a code").code), 4401);
    app.odds("after", "after").await;

    let last = loop {
        match client.frame().await.expect("a close frame").expect("no error") {
            tokio_tungstenite::tungstenite::Message::Close(frame) => break frame.expect("a code"),
            message => assert!(!message.to_string().contains("\"after\""), "it was delivered"),
        }
    };
    assert_eq!(u16::from(last.code), 4401);
    while let Some(event) = events.event().await {
        assert!(!event.data.contains("\"after\""), "it was delivered");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_gone_once_its_token_expired() {
    let app = start().await;
    let token = expiring(3);
    let mut silent = Vec::new();
    for path in ["/api/ws", "/api/sse"] {
        let mut raw = Raw::narrow(app.address).await;
        let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let head = format!("GET {path}?token={token} HTTP/1.1\r\nHost: localhost\r\n{handshake}\r\n");
        raw.send(head.as_bytes()).await;
        raw.head().await;
        silent.push(raw);
    }
    app.connections(2).await;
    // Nothing is sent that could stall: it is the token that ends them.
    eventually("both are gone", || app.manager.is_empty()).await;
}

#[tokio::test]
async fn an_auth_message_extends_a_connection_and_widens_it() {
    let app = start().await;
    let short = json!({"exp": now() + 3, "topics": ["odds_updates/8301"]});
    let mut client = app.ws(&format!("token={}", token(&short))).await;
    let until = now() + 3600;
    let longer = token(&json!({"exp": until, "topics": ["odds_updates"]}));
    client.send(json!({"type": "auth", "token": longer}).to_string()).await;
    let ack = client.expect("auth_ack").await;
    let shown = oddswire::message::Timestamp::from_millis(until * 1000).to_string();
    assert_eq!(ack["data"]["expires_at"], shown);
    client.send(r#"{"type":"subscribe","topics":["odds_updates"]}"#).await;
    let update = client.expect("subscription_update").await;
    assert_eq!(update["topics"], json!(["odds_updates", "odds_updates/8301"]));

    let mut sentinel = app.ws(&format!("token={}", token(&json!({"exp": now() + 4, "topics": ["*"]})))).await;
    assert_eq!(u16::from(sentinel.closed().await.expect("a code").code), 4401);
    client.nothing_came().await;
    // It may be shortened as well.
    client.send(json!({"type": "auth", "token": expiring(1)}).to_string()).await;
    client.expect("auth_ack").await;
    assert_eq!(u16::from(client.closed().await.expect("a code").code), 4401);
}

#[tokio::test]
async fn a_new_token_that_allows_less_than_the_client_listens_to_closes_it_with_4403() {
    let app = start().await;
    for (held, then, closes) in [
        ("odds_updates", &["scrape_progress"][..], true),
        ("odds_updates", &["odds_updates/8301"], true),
        ("odds_updates", &[], true),
        ("odds_updates/8301", &["odds_updates/8301/1x2"], true),
        ("odds_updates/8301", &["odds_updates/8301"], false),
        ("odds_updates/8301", &["odds_updates"], false),
    ] {
        let mut client = app.ws(&format!("token={}&topics={held}", token(&claims(&["*"])))).await;
        client.send(json!({"type": "auth", "token": token(&claims(then))}).to_string()).await;
        if closes {
            assert_eq!(u16::from(client.closed().await.expect("a code").code), 4403, "{held}, {then:?}");
        } else {
            client.expect("auth_ack").await;
            client.send(r#"{"type":"subscribe","topics":["scrape_progress"]}"#).await;
            client.expect("subscription_update").await;
            assert_eq!(client.expect("error").await["data"]["code"], "forbidden", "the new token counts");
        }
    }
}

#[tokio::test]
async fn a_bad_token_in_an_auth_message_is_an_error_and_changes_nothing() {
    let app = start().await;
    let mut client = app.ws(&format!("token={}", token(&claims(&["odds_updates"])))).await;
    let other = jwt::signed(&Header::new(Algorithm::HS256), &claims(&["*"]), "another-secret-of-at-least-32-bytes");
    let expired = expiring(-31);
    let cases = [
        (json!(other), "unauthorized", "its signature is wrong"),
        (json!(expired), "token_expired", "has expired"),
        (json!("abc"), "unauthorized", "no JSON Web Token"),
        (json!(""), "bad_request", "'token' must be"),
        (json!(7), "bad_request", "'token' must be"),
        (Value::Null, "bad_request", "'token' must be"),
    ];
    for (token, code, reason) in cases {
        client.send(json!({"type": "auth", "token": token}).to_string()).await;
        let error = client.expect("error").await;
        assert_eq!(error["data"]["code"], code, "{error}");
        assert!(error["data"]["detail"].as_str().unwrap().contains(reason), "{error}");
    }
    app.odds("1", "goes on").await;
    assert_eq!(client.expect("odds_updates").await["data"], "goes on");

    let public = App::start().await;
    let mut client = public.ws("").await;
    client.send(json!({"type": "auth", "token": expiring(60)}).to_string()).await;
    let error = client.expect("error").await;
    assert_eq!(error["data"]["code"], "bad_request");
    assert!(error["data"]["detail"].to_string().contains("asks for no token"), "{error}");
    client.nothing_came().await;
}

#[tokio::test]
async fn a_token_may_be_good_for_longer_than_the_calendar() {
    let app = start().await;
    for exp in [253_402_300_799_u64, 253_402_300_800, 9_999_999_999_999, u64::MAX / 1000, u64::MAX] {
        let token = token(&json!({"exp": exp, "topics": ["*"]}));
        let mut client = app.ws(&format!("token={token}")).await;
        client.send(json!({"type": "auth", "token": token}).to_string()).await;
        assert!(client.expect("auth_ack").await["data"].get("expires_at").is_some(), "{exp}");
        app.sse(&format!("token={token}")).await;
        client.nothing_came().await;
    }
}

// The log.

#[tokio::test]
async fn a_subscribers_token_stands_nowhere_in_the_log() {
    let settings = [
        ("ODDSWIRE_LOG_LEVEL", "debug"),
        ("ODDSWIRE_SUBSCRIBER_JWT_SECRET", SECRET),
        ("ODDSWIRE_SUBSCRIBER_COOKIE", "session"),
    ];
    let mut process = Process::serve(&settings).await;
    let good = token(&claims(&["*"]));
    let bad = jwt::signed(&Header::new(Algorithm::HS256), &claims(&["*"]), "another-secret-of-at-least-32-bytes");
    let old = expiring(-31);
    for token in [&good, &bad, &old] {
        for path in ["/api/ws", "/api/sse", "/api/topics", "/api/topics/odds_updates/state", "/api/nothing", "/healthz"]
        {
            get(process.address, &format!("{path}?token={token}&since=yesterday"), &[]).await;
            get(process.address, &format!("{path}?topics=foo&token={token}"), &[]).await;
            get(process.address, path, &[("Authorization", &format!("Bearer {token}"))]).await;
            get(process.address, path, &[("Cookie", &format!("session={token}"))]).await;
        }
        assert_eq!(process.publish(token).await, 401);
        // Not even HTTP.
        let mut raw = Raw::connect(process.address).await;
        raw.send(format!("GET /api/ws?token={token} HTTP/9.9\r\n\r\n").as_bytes()).await;
        raw.rest().await;
    }
    let mut client = ws::Client::connect(process.address, &format!("token={good}")).await;
    let mut kinds = String::new();
    for token in [&good, &bad, &old] {
        for message in [json!({"type": "auth", "token": token}), json!({"type": "auth", "tokens": token})] {
            client.send(message.to_string()).await;
            write!(kinds, "{} ", client.next().await["type"]).unwrap();
        }
        client.send(format!(r#"{{"type":"auth","token":"{token}"#)).await;
        client.send(format!(r#"{{"type":"authenticate","token":"{token}"}}"#)).await;
    }
    assert_eq!(kinds, r#""auth_ack" "error" "error" "error" "error" "error" "#);
    client.close().await;
    process.event("ws.malformed_message").await;
    process.event("ws.disconnect").await;
    process.signal("TERM");
    let log = within(process.end()).await.stderr;
    for secret in [good.as_str(), &bad, &old, SECRET, "eyJ"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

//! Subscribers' tokens: which tokens are valid, how clients send them, and that the log does not contain them.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use oddswire::config::Config;
use serde_json::{Value, json};

use crate::harness::get::{code, get};
use crate::harness::jwt::{self, Algorithm, File, Pair, SECRET, claims, expiring, now, start, token};
use crate::harness::process::Process;
use crate::harness::raw::Raw;
use crate::harness::{App, within, ws};

/// The paths that need a subscriber's token.
const READS: [&str; 4] = ["/api/ws", "/api/sse", "/api/topics", "/api/topics/odds_updates/state"];

/// Checks that every path refuses this token with this reason.
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
async fn invalid_token_is_refused_everywhere_with_the_reason() {
    let app = start().await;
    let good = token(&claims(&["*"]));
    let (body, signature) = good.split_once('.').unwrap().1.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"; // {"alg":"none","typ":"JWT"}
    let other = jwt::signed(&json!({"alg": "HS256"}), &claims(&["*"]), "another-secret-of-at-least-32-bytes");
    let hs512 = jwt::signed(&json!({"alg": "HS512"}), &claims(&["*"]), SECRET);
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
        (format!("{none}.{body}."), "not a JSON Web Token"),
        (format!("{none}.{body}.{signature}"), "not a JSON Web Token"),
        (hs512, "no key of the server fits"),
        ("eyJ".to_owned(), "not a JSON Web Token"),
        (SECRET.to_owned(), "not a JSON Web Token"),
        (with("nbf", json!(now() + 60)), "not valid yet (nbf)"),
        (token(&json!({"topics": ["*"]})), "no claim 'exp'"),
        (with("exp", json!(-1)), "the token"),
        (with("exp", json!("tomorrow")), "'exp' must be a number"),
        (with("topics", json!("odds_updates")), "'topics' a list of strings"),
        (with("topics", json!([1])), "'topics' a list of strings"),
        (with("topics", json!(["Odds!"])), "not a list of subscriptions"),
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
async fn times_in_a_token_may_have_a_fraction() {
    // RFC 7519, section 2, allows fractions of a second. For example, Python's `time.time() + 3600` has a fraction.
    let app = start().await;
    let seconds = f64::from(i32::try_from(now()).unwrap());
    admitted(&app, &token(&json!({"exp": seconds + 3600.5, "nbf": seconds - 0.5, "topics": ["*"]}))).await;
}

#[tokio::test]
async fn token_is_accepted_in_header_query_or_cookie() {
    let app = App::with(|config| {
        jwt::required(config);
        config.subscriber_cookie = Some("session".to_owned());
    })
    .await;
    let token = token(&claims(&["*"]));
    let (bearer, lower) = (format!("Bearer {token}"), format!("bearer {token}"));
    let (cookie, among) = (format!("session={token}"), format!("theme=dark; session={token};session_id=7"));
    let query = format!("?token={token}");
    let cases = [
        ("", Some(("Authorization", &bearer)), true),
        ("", Some(("Authorization", &lower)), true),
        (query.as_str(), None, true),
        ("", Some(("Cookie", &cookie)), true),
        ("", Some(("Cookie", &among)), true),
        ("", Some(("Cookie", &query)), false),
        ("?token=", None, false),
    ];
    for (query, header, good) in cases {
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

// Key sets.

fn set(keys: &[Value]) -> File {
    File::new(&json!({"keys": keys}).to_string())
}

async fn with_keys(file: &File) -> App {
    App::with(|config| config.subscriber_jwks_file = Some(file.0.clone())).await
}

#[tokio::test]
async fn key_set_accepts_rs256_es256_and_eddsa_of_the_named_key() {
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
async fn public_key_is_not_accepted_as_a_shared_secret() {
    let pair = Pair::generate(Algorithm::RS256);
    let public = pair.public("rsa");
    let file = set(std::slice::from_ref(&public));
    let app = with_keys(&file).await;
    // An attacker who knows the public key may use it as an HS256 secret. Try several text forms of the key.
    let header = json!({"alg": "HS256", "kid": "rsa"});
    for secret in [public["n"].as_str().unwrap(), &public.to_string(), &std::fs::read_to_string(&file.0).unwrap()] {
        let confused = jwt::signed(&header, &claims(&["*"]), secret);
        refused(&app, Some(&confused), "unauthorized", "no key of the server fits").await;
    }
    let of_secret = start().await;
    refused(&of_secret, Some(&pair.sign(None, &claims(&["*"]))), "unauthorized", "no key of the server fits").await;
}

#[tokio::test]
async fn keys_of_a_set_for_other_purposes_are_ignored() {
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
    assert_eq!(
        (response.status, code(&response)),
        (401, "unauthorized"),
        "a key for encryption is not used for signatures"
    );
}

#[test]
fn invalid_secret_or_key_set_is_refused_with_its_setting() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check().expect_err("the setting is invalid").to_string()
    };
    let secret = |length: usize| "s".repeat(length);
    let short = refused(&|config| config.subscriber_jwt_secret = Some(secret(31).parse().unwrap()));
    assert!(short.contains("subscriber-jwt-secret has 31 bytes") && short.contains("32 or more"), "{short}");
    let file = File::new(&format!("{}\n", secret(32)));
    let mut edge = Config::default();
    edge.subscriber_jwt_secret_file = Some(file.0.clone());
    assert_eq!(edge.check().unwrap().subscriber_jwt_secret.unwrap().expose(), secret(32));

    let octets = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}).to_string();
    let modulus = |bytes: &[u8]| {
        let n = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{"kty": "RSA", "alg": "RS256", "n": n, "e": "AQAB"}]}).to_string()
    };
    let [small, large, zero] = [&[1; 255][..], &[1; 1025], &[&[0][..], &[1; 256]].concat()].map(modulus);
    let cases = [
        (small.as_str(), "an RSA modulus of 2040 bits: expected 2048 to 8192"),
        (&large, "an RSA modulus of 8200 bits: expected 2048 to 8192"),
        (&zero, "an RSA modulus that begins with a zero byte"),
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

// The log.

#[tokio::test]
async fn log_never_contains_a_subscribers_token() {
    let settings = [
        ("ODDSWIRE_LOG_LEVEL", "debug"),
        ("ODDSWIRE_SUBSCRIBER_JWT_SECRET", SECRET),
        ("ODDSWIRE_SUBSCRIBER_COOKIE", "session"),
    ];
    let mut process = Process::serve(&settings).await;
    let good = token(&claims(&["*"]));
    let bad = jwt::signed(&json!({"alg": "HS256"}), &claims(&["*"]), "another-secret-of-at-least-32-bytes");
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
        // A request that is not valid HTTP.
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

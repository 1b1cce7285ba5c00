//! Checks subscribers' tokens. A token without a valid signature grants no access. A signed token grants the access in
//! its claims until it expires.

use std::cell::OnceCell;
use std::time::{SystemTime, UNIX_EPOCH};

use oddswire::auth::{Access, AccessError, Verifier};
use oddswire::protocol;
use oddswire::topic::Subscription;
use ring::hmac;
use serde_json::Value;

const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";
/// The public keys of RFC 7515 (appendix A.3) and RFC 8037 (appendix A.2). This check never uses their private keys.
const KEY_SET: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","alg":"ES256","kid":"ec",
     "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
]}"#;
/// The tolerance in seconds: 30 for the server's clock skew, and 1 between the clock readings of the server and this
/// check.
const SLACK: f64 = 31.0;

struct Verifiers {
    secret: Verifier,
    key_set: Verifier,
}

/// Checks the input as a token. Then checks signed tokens, with the first line as their header and the other lines as
/// their claims.
pub fn check(input: &[u8]) {
    thread_local!(static VERIFIERS: OnceCell<Verifiers> = const { OnceCell::new() });
    VERIFIERS.with(|cell| {
        let verifiers = cell.get_or_init(|| Verifiers {
            secret: Verifier::with_secret(&SECRET.parse().expect("visible ASCII")),
            key_set: Verifier::with_jwks(KEY_SET).expect("a key set"),
        });
        if let Ok(token) = std::str::from_utf8(input) {
            as_token(token, verifiers);
        }
        let (header, claims) = input.split_at(input.iter().position(|b| *b == b'\n').unwrap_or(input.len()));
        as_parts(header, claims.trim_ascii(), verifiers);
    });
}

fn as_token(token: &str, verifiers: &Verifiers) {
    let rejected = |access: Result<Access, AccessError>| match access {
        Err(error) => super::check_detail(&error.to_string()),
        Ok(access) => panic!("{token:?} has no valid signature but grants {access:?}"),
    };
    rejected(verifiers.secret.check(token));
    rejected(verifiers.key_set.check(token));
}

fn as_parts(header: &[u8], claims: &[u8], verifiers: &Verifiers) {
    // Tokens with a wrong secret. An attacker may use the public key as a shared secret (RFC 8725, section 2.1).
    for wrong in
        ["another-secret-of-thirty-two-bytes-or-more", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", KEY_SET, ""]
    {
        assert!(
            verifiers.secret.check(&signed(header, claims, wrong)).is_err(),
            "a token with another secret is rejected"
        );
        assert!(
            verifiers.key_set.check(&signed(header, claims, wrong)).is_err(),
            "a public key does not work as a secret"
        );
    }
    let token = signed(header, claims, SECRET);
    assert!(verifiers.key_set.check(&token).is_err());
    if let Ok(access) = verifiers.secret.check(&token) {
        // The server ignores unknown claims, so the values of those claims need not be UTF-8.
        let said = |part: &[u8]| serde_json::from_str::<Value>(&String::from_utf8_lossy(part));
        if let (Ok(header), Ok(claims)) = (said(header), said(claims)) {
            assert_eq!(header["alg"], "HS256");
            admitted(&access, &claims);
        }
    }
    if let Ok(claims) = serde_json::from_slice::<Value>(claims) {
        // Serializing the claims again removes duplicates, so each claim has one value.
        let token = signed(br#"{"alg":"HS256"}"#, claims.to_string().as_bytes(), SECRET);
        let access = verifiers.secret.check(&token);
        assert!(access.is_ok() || !is_good(&claims), "{claims} are valid, but: {access:?}");
    }
}

fn signed(header: &[u8], claims: &[u8], secret: &str) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{message}.{}", base64(hmac::sign(&key, message.as_bytes()).as_ref()))
}

/// Checks that the granted access matches the claims of the token.
fn admitted(access: &Access, claims: &Value) {
    assert!(claims["exp"].as_f64().expect("a token expires") >= now() - SLACK, "the token has expired: {claims}");
    assert!(claims["nbf"].as_f64().is_none_or(|from| from <= now() + SLACK), "the token is not valid yet: {claims}");
    let expires = access.expires.expect("every token expires");
    assert!(expires.as_millis() > 0);
    // The server's response to a new token contains the expiry time of the token.
    let told: Value = serde_json::from_slice(protocol::auth_ack(Some(expires)).text()).expect("the response is JSON");
    assert!(told["data"]["expires_at"].is_string());

    let topics: Vec<&str> = claims["topics"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match access.everything() {
        None => assert!(topics.contains(&"*"), "{claims} do not allow everything"),
        Some(allowed) => {
            assert!(allowed.iter().map(Subscription::to_string).eq(topics), "{allowed:?} are not those of {claims}");
            assert!(allowed.iter().all(|subscription| access.covers(subscription)));
            let other: Subscription = "a_topic_that_no_seed_has/8301".parse().expect("a subscription");
            assert!(!access.covers(&other) || allowed.iter().any(|one| one.topic() == other.topic()));
        }
    }
}

/// Whether the server must accept a token with these claims. Returns false, too, if this check cannot decide.
fn is_good(claims: &Value) -> bool {
    let valid =
        |topic: &Value| topic.as_str().is_some_and(|topic| topic == "*" || topic.parse::<Subscription>().is_ok());
    let topics = match &claims["topics"] {
        Value::Array(topics) => topics.iter().all(valid),
        Value::Null => claims.get("topics").is_none(),
        _ => false,
    };
    let exp = &claims["exp"];
    let lasts = exp.is_u64() && exp.as_f64().is_some_and(|at| (now() + SLACK..1e12).contains(&at));
    topics
        && lasts
        && claims.as_object().is_some_and(|claims| claims.keys().all(|name| name == "exp" || name == "topics"))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the time is after 1970").as_secs_f64()
}

/// Base64 for URLs without padding (RFC 7515, section 2).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[bits >> (18 - 6 * digit) & 63]));
        }
    }
    text
}

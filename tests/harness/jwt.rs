//! Subscribers' tokens, signed as their issuer would; and files that a test's server reads.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oddswire::config::Config;
use serde_json::{Value, json};

use super::App;

/// The shared secret that the tests' servers know.
pub const SECRET: &str = "a-secret-of-at-least-32-bytes-4711";

/// The time, in seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_secs()).unwrap()
}

/// Claims that are good for an hour, for these topics.
pub fn claims(topics: &[&str]) -> Value {
    json!({"exp": now() + 3600, "topics": topics})
}

/// A token for all topics that expires so many seconds from now.
pub fn expiring(seconds: i64) -> String {
    token(&json!({"exp": now() + seconds, "topics": ["*"]}))
}

/// A token signed with the shared secret (HS256).
pub fn token(claims: &Value) -> String {
    signed(&Header::new(Algorithm::HS256), claims, SECRET)
}

/// A token signed with any secret.
pub fn signed(header: &Header, claims: &Value, secret: &str) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// Asks subscribers for tokens signed with the shared secret.
pub fn required(config: &mut Config) {
    config.subscriber_jwt_secret = Some(SECRET.parse().unwrap());
}

/// A server that asks subscribers for such tokens.
pub async fn start() -> App {
    App::with(required).await
}

/// A pair of keys, made on the spot: no private key lies in the repository.
pub struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
}

impl Pair {
    pub fn generate(algorithm: Algorithm) -> Self {
        let of = match algorithm {
            Algorithm::RS256 => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..],
            Algorithm::ES256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            _ => &["ED25519"],
        };
        let pem = openssl(&[&["genpkey", "-algorithm"], of].concat(), b"");
        let pkcs8 = openssl(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], &pem);
        let private = match algorithm {
            // The library wants what is inside of RSA's PKCS #8: behind a head of 26 bytes for 2048 bits.
            Algorithm::RS256 => EncodingKey::from_rsa_der(&pkcs8[26..]),
            Algorithm::ES256 => EncodingKey::from_ec_der(&pkcs8),
            _ => EncodingKey::from_ed_der(&pkcs8),
        };
        Self { algorithm, private }
    }

    /// The public half, under a name.
    pub fn public(&self, id: &str) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).expect("openssl makes good keys");
        jwk.common.key_id = Some(id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    /// A token that names the key that it is signed with, or none.
    pub fn sign(&self, id: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.private).unwrap()
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl is installed where the tests run");
    child.stdin.take().unwrap().write_all(input).expect("a key is smaller than a pipe");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// A file that is gone with its test.
pub struct File(pub PathBuf);

impl File {
    pub fn new(contents: &str) -> Self {
        let name = format!("{:x}-{:x}", std::process::id(), fastrand::u64(..));
        let file = Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        file.write(contents);
        file
    }

    pub fn write(&self, contents: &str) {
        std::fs::write(&self.0, contents).unwrap();
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A test may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

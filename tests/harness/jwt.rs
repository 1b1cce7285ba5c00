//! Subscribers' tokens, signed as an issuer signs them; and temporary files for a test's server.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use oddswire::config::Config;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::App;

/// The shared secret of the tests' servers.
pub const SECRET: &str = "a-secret-of-at-least-32-bytes-4711";

/// The time, in seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_secs()).unwrap()
}

/// Claims for these topics that expire in an hour.
pub fn claims(topics: &[&str]) -> Value {
    json!({"exp": now() + 3600, "topics": topics})
}

/// A token for all topics that expires in this many seconds.
pub fn expiring(seconds: i64) -> String {
    token(&json!({"exp": now() + seconds, "topics": ["*"]}))
}

/// A token signed with the shared secret (HS256).
pub fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

/// A token with any header, signed with any secret: with HMAC and SHA-512 for HS512, else with SHA-256.
pub fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let hash = if header["alg"] == "HS512" { hmac::HMAC_SHA512 } else { hmac::HMAC_SHA256 };
    let key = hmac::Key::new(hash, secret.as_bytes());
    assemble(header, claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

/// Header, claims and signature in the compact form (RFC 7515, section 7.1).
fn assemble(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64url(signature))
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Sets the shared secret, so that subscribers need a token signed with it.
pub fn required(config: &mut Config) {
    config.subscriber_jwt_secret = Some(SECRET.parse().unwrap());
}

/// Starts a server whose subscribers need such a token.
pub async fn start() -> App {
    App::with(required).await
}

/// The algorithm of a pair of keys.
#[derive(Debug, Clone, Copy)]
pub enum Algorithm {
    RS256,
    ES256,
    EdDSA,
}

/// A pair of keys that openssl generates, so that the repository holds no private key.
pub enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Pair {
    pub fn generate(algorithm: Algorithm) -> Self {
        let of = match algorithm {
            Algorithm::RS256 => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..],
            Algorithm::ES256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Algorithm::EdDSA => &["ED25519"],
        };
        let pem = openssl(&[&["genpkey", "-algorithm"], of].concat(), b"");
        let pkcs8 = openssl(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], &pem);
        match algorithm {
            Algorithm::RS256 => Self::Rsa(RsaKeyPair::from_pkcs8(&pkcs8).unwrap()),
            Algorithm::ES256 => {
                let random = SystemRandom::new();
                Self::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &random).unwrap())
            }
            Algorithm::EdDSA => Self::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).unwrap()),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    /// The public key as a JSON Web Key with this id.
    pub fn public(&self, id: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(pair) => {
                let key = signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": base64url(key.n), "e": base64url(key.e)})
            }
            Self::Ec(pair) => {
                // An uncompressed point: 4, then 32 bytes each of x and y.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)})
            }
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())}),
        };
        jwk["alg"] = self.algorithm().into();
        jwk["kid"] = id.into();
        jwk
    }

    /// A token signed with the private key. Its header names the key if an id is given.
    pub fn sign(&self, id: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT"});
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        assemble(&header, claims, |message| self.signature(message))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl is installed where the tests run");
    child.stdin.take().unwrap().write_all(input).expect("a key fits into a pipe's buffer");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// A temporary file, removed on drop.
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

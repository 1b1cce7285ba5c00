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

/// The secret with which the tests sign tokens (HS256), and which the servers of the tests accept.
pub const SECRET: &str = "a-secret-of-at-least-32-bytes-4711";

/// The current time, in seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_secs()).unwrap()
}

/// The claims of a token for these topics that expires in an hour.
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

/// A token with any header, signed with any secret. Uses HMAC with SHA-512 if the header names HS512, else with
/// SHA-256.
pub fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let hash = if header["alg"] == "HS512" { hmac::HMAC_SHA512 } else { hmac::HMAC_SHA256 };
    let key = hmac::Key::new(hash, secret.as_bytes());
    assemble(header, claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

/// A token in the compact form (RFC 7515, section 7.1): header, claims and signature.
fn assemble(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64url(signature))
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Changes the settings so that subscribers need a token signed with the shared secret.
pub fn required(config: &mut Config) {
    config.subscriber_jwt_secret = Some(SECRET.parse().unwrap());
}

/// Starts a server whose subscribers need a token signed with the shared secret.
pub async fn start() -> App {
    App::with(required).await
}

/// The signature algorithm of a key pair.
#[derive(Debug, Clone, Copy)]
pub enum Algorithm {
    RS256,
    ES256,
    EdDSA,
}

/// A key pair. openssl generates it during the test, so that the repository contains no private key.
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
                // The public key is an uncompressed point: the byte 4, then 32 bytes each for x and y.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)})
            }
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())}),
        };
        jwk["alg"] = self.algorithm().into();
        jwk["kid"] = id.into();
        jwk
    }

    /// Signs a token with the private key. If an id is given, the token's header names the key with it.
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

/// A temporary file. Dropping this value removes the file.
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
        // The test may have removed the file itself.
        let _ = std::fs::remove_file(&self.0);
    }
}

//! Verifies the signatures of JSON Web Tokens with the crate ring, which TLS needs anyway. The own backends of the
//! crate jsonwebtoken would add 40 crates to the build.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};

/// The minimum and maximum size of an RSA modulus that ring accepts, in bytes (RFC 7518, section 3.3: 2048 bits or
/// more).
pub(super) const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Implements only the verifier, because the server signs nothing and makes no keys.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() })),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes jsonwebtoken verify with ring. Repeated calls change nothing: the library keeps the first provider of the
/// process.
pub(super) fn install() {
    let _: Result<(), &CryptoProvider> = PROVIDER.install_default();
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let valid = match (self.algorithm, self.key.kind()) {
            (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, signature).is_ok()
            }
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(key)) => {
                is_signed(&ECDSA_P256_SHA256_FIXED, key, message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => is_signed(&ED25519, key, message, signature),
            _ => false,
        };
        if valid { Ok(()) } else { Err(SignatureError::new()) }
    }
}

fn is_signed(algorithm: &'static dyn VerificationAlgorithm, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::crypto::verify;
    use jsonwebtoken::jwk::Jwk;

    use super::*;

    /// The claims of the examples in RFC 7515, appendix A.
    const CLAIMS: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn key(jwk: &str) -> DecodingKey {
        let jwk: Jwk = serde_json::from_str(jwk).unwrap();
        DecodingKey::from_jwk(&jwk).unwrap()
    }

    /// Checks that the signature is valid for the message, and invalid for a changed message.
    fn check(algorithm: Algorithm, key: &DecodingKey, message: &str, signature: &str) {
        install();
        assert_eq!(verify(signature, message.as_bytes(), key, algorithm), Ok(true), "{algorithm:?}");
        let changed = message.replace('J', "K");
        assert_eq!(verify(signature, changed.as_bytes(), key, algorithm), Ok(false), "{algorithm:?}");
    }

    #[test]
    fn hs256_example_of_rfc_7515_is_verified() {
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = key(&format!(r#"{{"kty":"oct","k":"{secret}"}}"#));
        let message = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}");
        check(Algorithm::HS256, &key, &message, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }

    #[test]
    fn rs256_example_of_rfc_7515_is_verified() {
        let modulus = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT\
                       -SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBd\
                       QOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaG\
                       Nj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let key = key(&format!(r#"{{"kty":"RSA","n":"{modulus}","e":"AQAB"}}"#));
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9\
                         uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZR\
                         mB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs\
                         98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        check(Algorithm::RS256, &key, &format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}"), signature);
    }

    #[test]
    fn es256_example_of_rfc_7515_is_verified() {
        let key = key(r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#);
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        check(Algorithm::ES256, &key, &format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}"), signature);
    }

    #[test]
    fn eddsa_example_of_rfc_8037_is_verified() {
        let key = key(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#);
        let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        check(Algorithm::EdDSA, &key, message, signature);
    }
}

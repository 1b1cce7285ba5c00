//! Secrets, compared in constant time.

use std::fmt;
use std::str::FromStr;

use subtle::{Choice, ConstantTimeEq as _};

/// A secret. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(super) fn is(&self, given: &str) -> Choice {
        self.0.as_bytes().ct_eq(given.as_bytes())
    }

    /// The secret as text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 or more visible ASCII characters without spaces".to_owned())
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

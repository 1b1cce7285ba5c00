//! Positions: the places of messages in the sequence.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::shortened::shortened;

/// The place of a message in the deployment's one sequence, written as `<epoch>-<offset>`.
///
/// Positions of one epoch are ordered by their offsets. When the sequence cannot be continued, the server begins a new
/// epoch. Positions of different epochs cannot be compared, so this type has no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// When the sequence began, in Unix milliseconds.
    pub epoch: u64,
    /// The number of the message in the sequence, from 1. Offset 0 is the position before the first message.
    pub offset: u64,
}

/// The text is not a valid position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid position '{0}': expected <epoch>-<offset>, such as 1763849000000-42")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        // The parser of u64 also accepts a leading '+', which a position must not have.
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten();
        text.split_once('-')
            .and_then(|(epoch, offset)| Some(Self { epoch: number(epoch)?, offset: number(offset)? }))
            .ok_or_else(|| PositionError(shortened(text)))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_positions_are_refused_with_the_expected_form() {
        for text in ["", "1", "1-", "-1", "+1-2", "1-+2", "1-2-3", "a-b", " 1-2", "1-99999999999999999999"] {
            let error = text.parse::<Position>().unwrap_err().to_string();
            assert!(error.contains("expected <epoch>-<offset>"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn positions_parse_back_from_their_text(epoch: u64, offset: u64) {
            let position = Position { epoch, offset };
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }
    }
}

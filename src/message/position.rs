//! Positions: where messages stand.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::shortened::shortened;

/// Where a message stands in the deployment's one sequence: `<epoch>-<offset>`.
///
/// Positions of one epoch are ordered by their offsets. The epoch (Unix milliseconds) changes when the sequence could
/// not be continued, so positions of different epochs say nothing about each other and are not ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// When the sequence began, in Unix milliseconds.
    pub epoch: u64,
    /// The message's number in it, from 1; 0 is the position before the first.
    pub offset: u64,
}

/// The text is no position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is not a position: expected <epoch>-<offset>, such as 1763849000000-42")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        // u64's own parser also takes a leading '+', which no position has.
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
    fn a_position_that_is_none_is_refused_by_name() {
        for text in ["", "1", "1-", "-1", "+1-2", "1-+2", "1-2-3", "a-b", " 1-2", "1-99999999999999999999"] {
            let error = text.parse::<Position>().unwrap_err().to_string();
            assert!(error.contains("expected <epoch>-<offset>"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn positions_read_back_as_written(epoch: u64, offset: u64) {
            let position = Position { epoch, offset };
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }
    }
}

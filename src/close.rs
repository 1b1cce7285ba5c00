//! The close-code table: every reason for which the server closes a WebSocket.

/// Why the server closes a connection. [`Close::row`] returns the row of the table for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// The server is shutting down.
    Draining,
    /// The client violated RFC 6455.
    Protocol,
    /// A text message was not valid UTF-8 (RFC 6455, section 8.1).
    InvalidUtf8,
    /// A message came in more than 1,024 fragments.
    TooManyFragments,
    /// A message was longer than `client-message-bytes`.
    TooBig,
    /// The server failed to serve this connection. The client can reconnect.
    TryAgain,
    /// The subscriber's token has expired.
    TokenExpired,
    /// The client's new token does not allow the client's current subscriptions.
    Forbidden,
    /// The client sends more messages than `client-messages-per-second`.
    TooManyMessages,
    /// The server received no byte from the client for `idle-timeout`.
    KeepAlive,
    /// The client took no byte from the server for `write-timeout`.
    Stalled,
}

/// One row of the close-code table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The code in the close frame (RFC 6455, section 7.4; codes from 4000 to 4999 are for applications).
    pub code: u16,
    /// The reason in the close frame, at most 123 bytes.
    pub reason: &'static str,
    /// The reason in logs and metrics.
    pub label: &'static str,
    /// Whether the client should reconnect.
    pub reconnect: bool,
}

impl Close {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::Draining,
        Self::Protocol,
        Self::InvalidUtf8,
        Self::TooManyFragments,
        Self::TooBig,
        Self::TryAgain,
        Self::TokenExpired,
        Self::Forbidden,
        Self::TooManyMessages,
        Self::KeepAlive,
        Self::Stalled,
    ];

    /// The row of the table for this reason.
    #[must_use]
    pub const fn row(self) -> Row {
        let (code, reason, label, reconnect) = match self {
            Self::Draining => (1001, "server is shutting down, reconnect", "draining", true),
            Self::Protocol => (1002, "protocol error", "protocol_error", false),
            Self::InvalidUtf8 => (1007, "text is not valid UTF-8", "invalid_utf8", false),
            Self::TooManyFragments => (1008, "message has more than 1,024 fragments", "too_many_fragments", false),
            Self::TooBig => (1009, "message is larger than client-message-bytes", "message_too_big", false),
            Self::TryAgain => (1013, "try again later", "try_again", true),
            Self::TokenExpired => (4401, "token has expired, reconnect with a new one", "token_expired", true),
            Self::Forbidden => (4403, "token does not allow these subscriptions", "forbidden", false),
            Self::TooManyMessages => {
                (4429, "more messages than client-messages-per-second", "too_many_messages", false)
            }
            Self::KeepAlive => (4408, "nothing received within idle-timeout", "keep_alive_timeout", true),
            // A peer that takes no bytes would not get a close frame. The server resets the connection instead.
            Self::Stalled => (4413, "took no data within write-timeout", "stalled", true),
        };
        Row { code, reason, label, reconnect }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_fits_a_control_frame() {
        let mut codes: Vec<u16> = Close::ALL.iter().map(|close| close.row().code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Close::ALL.len());
        for close in Close::ALL {
            assert!(close.row().reason.len() <= 123, "{close:?}");
        }
    }
}

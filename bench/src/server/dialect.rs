//! The kinds of servers, and the differences between their requests and responses.

/// The topic of every message.
pub const TOPIC: &str = "odds_updates";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Oddswire,
    StockWarp,
    FastApi,
    Nchan,
}

impl Dialect {
    /// The kind of the server with this name. Every unknown name means oddswire, for example an older build.
    pub fn of(name: &str) -> Self {
        match name {
            "stock-warp" => Self::StockWarp,
            "fastapi" => Self::FastApi,
            "nchan" => Self::Nchan,
            _ => Self::Oddswire,
        }
    }

    /// Whether the server sends a message to each new subscriber. If not, a client can only wait for the response to
    /// its handshake.
    pub fn greets(self) -> bool {
        self != Self::Nchan
    }

    /// Whether one request can publish several messages.
    pub fn takes_batches(self) -> bool {
        self == Self::Oddswire
    }

    /// The content type of a publish request with this number of messages.
    pub fn content_type(self, messages: usize) -> &'static str {
        if messages > 1 && self.takes_batches() { "application/x-ndjson" } else { "application/json" }
    }
}

/// The request path of a subscriber to the messages of one event, or to all messages. Only oddswire reads the query
/// string; peers ignore it.
pub fn subscribe_path(event: Option<u64>) -> String {
    let key = event.map(|event| format!("/e{event}")).unwrap_or_default();
    format!("/api/ws?topics={TOPIC}{key}&since=now")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_names_the_subscription() {
        assert_eq!(subscribe_path(None), "/api/ws?topics=odds_updates&since=now");
        assert_eq!(subscribe_path(Some(3)), "/api/ws?topics=odds_updates/e3&since=now");
    }
}

//! How the servers differ in what they are told and what they say.

/// The topic that everything is published to.
pub const TOPIC: &str = "odds_updates";

/// How subscribers are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Transport {
    Ws,
    Sse,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
        }
    }
}

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Oddswire,
    StockWarp,
    FastApi,
    Nchan,
}

impl Dialect {
    /// The kind of server that a name stands for; any other name is an oddswire, such as an older build of it.
    pub fn of(name: &str) -> Self {
        match name {
            "stock-warp" => Self::StockWarp,
            "fastapi" => Self::FastApi,
            "nchan" => Self::Nchan,
            _ => Self::Oddswire,
        }
    }

    /// Whether a subscriber gets a message as soon as it is one. Of a server that says nothing only the response to
    /// the request can be awaited.
    pub fn greets(self) -> bool {
        self != Self::Nchan
    }

    /// Whether one request can publish several messages.
    pub fn takes_batches(self) -> bool {
        self == Self::Oddswire
    }

    pub fn serves(self, transport: Transport) -> bool {
        transport == Transport::Ws || matches!(self, Self::Oddswire | Self::Nchan)
    }

    /// The type of a publish request's body.
    pub fn content_type(self, messages: usize) -> &'static str {
        if messages > 1 && self.takes_batches() { "application/x-ndjson" } else { "application/json" }
    }
}

/// The request path of a subscriber: to everything, or to one event's messages. The others than oddswire take no notice
/// of the query.
pub fn subscribe_path(transport: Transport, event: Option<u64>, since: &str) -> String {
    let narrowed = event.map(|event| format!("/e{event}")).unwrap_or_default();
    format!("/api/{}?topics={TOPIC}{narrowed}&since={since}", transport.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_the_transport_and_the_subscription() {
        assert_eq!(subscribe_path(Transport::Ws, None, "now"), "/api/ws?topics=odds_updates&since=now");
        assert_eq!(subscribe_path(Transport::Sse, Some(3), "now"), "/api/sse?topics=odds_updates/e3&since=now");
    }
}

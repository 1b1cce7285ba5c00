//! The settings of `serve`: the flag, environment variable, unit, bounds and default of each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args as _, FromArgMatches as _, Parser, ValueEnum};

use super::values::{AdminListen, Between, MONTH, Size, address, admin_address, count, ms, namespace, secs};
use crate::admission::TrustedProxies;
use crate::auth::{Origins, Token};
use crate::topic::Topics;

/// The format of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `term` on a terminal, `json` otherwise.
    Auto,
    /// Text lines for people.
    Term,
    /// One JSON object per line.
    Json,
}

/// The lowest severity of log records to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Losses and failures.
    Error,
    /// Unusual events.
    Warn,
    /// Normal events, such as a new connection.
    Info,
    /// Details of single connections and requests.
    Debug,
}

/// The storage engine, which orders messages and keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// In this process's memory: a restart loses all messages.
    Memory,
    /// In a file of this process: messages survive a restart.
    Journal,
    /// In Redis or Valkey, shared by any number of nodes.
    Redis,
}

/// When the journal writes a publish to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncWhen {
    /// Before the server answers the publish and delivers the messages.
    Always,
    /// At most this time after the server answers the publish request.
    Interval(Duration),
}

impl FromStr for SyncWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected 'always', or 'interval:<milliseconds>' from 1 to 60000, such as interval:100".to_owned();
        if text == "always" {
            return Ok(Self::Always);
        }
        let number = text.strip_prefix("interval:").ok_or_else(wrong)?;
        let millis = number.strip_suffix("ms").unwrap_or(number).parse().ok();
        millis.filter(|millis| (1..=60_000).contains(millis)).map(|millis| Self::Interval(ms(millis))).ok_or_else(wrong)
    }
}

/// The settings of `serve`.
#[derive(Debug, Clone, Parser)]
pub struct Config {
    /// Address and port for clients and publishers
    #[arg(long, env = "ODDSWIRE_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8000",
          value_parser = address)]
    pub listen: SocketAddr,
    /// Names of the topics, comma-separated; a name has 1 to 64 bytes of a-z, 0-9 and _
    #[arg(long, env = "ODDSWIRE_TOPICS", value_name = "NAMES", default_value = "scrape_progress,odds_updates")]
    pub topics: Topics,
    /// Token that publishers send as 'Authorization: Bearer TOKEN'. The server refuses all publishes if neither this
    /// token nor --publish-token-file is set
    #[arg(
        long,
        env = "ODDSWIRE_PUBLISH_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Publishers"
    )]
    pub publish_token: Option<Token>,
    /// File with one publisher per line: 'name:token' or 'name:token:topics'. SIGHUP reloads it
    #[arg(long, env = "ODDSWIRE_PUBLISH_TOKEN_FILE", value_name = "FILE", help_heading = "Publishers")]
    pub publish_token_file: Option<PathBuf>,
    /// Format of log records. 'auto' is 'term' (lines for people) on a terminal, and 'json' otherwise
    #[arg(long, env = "ODDSWIRE_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// Lowest severity of log records to write
    #[arg(long, env = "ODDSWIRE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Storage engine, which orders messages and keeps them
    #[arg(long, env = "ODDSWIRE_ENGINE", value_name = "ENGINE", default_value = "memory", help_heading = "Storage")]
    pub engine: EngineKind,
    /// Directory for the journal's file; required with --engine journal. Each server needs its own directory
    #[arg(long, env = "ODDSWIRE_DATA_DIR", value_name = "DIR", help_heading = "Storage")]
    pub data_dir: Option<PathBuf>,
    /// When the journal writes a publish to disk. 'always': before the server answers. 'interval:100': at most 100 ms
    /// later, so that a crash can lose the publishes of the last 100 ms
    #[arg(long, env = "ODDSWIRE_SYNC", value_name = "WHEN", default_value = "always", help_heading = "Storage")]
    pub sync: SyncWhen,
    /// Rename the journal's file, and start with an empty one
    #[arg(long, help_heading = "Storage")]
    pub reset_data: bool,
    /// URL of the broker for --engine redis: redis://user:password@host:port/db, rediss:// for TLS,
    /// redis-sentinel://host:port,host:port/master, redis-cluster://host:port,host:port
    #[arg(long, env = "ODDSWIRE_REDIS_URL", value_name = "URL", hide_env_values = true, help_heading = "Storage")]
    pub redis_url: Option<Token>,
    /// File that contains the broker's URL, instead of --redis-url
    #[arg(
        long,
        env = "ODDSWIRE_REDIS_URL_FILE",
        value_name = "FILE",
        conflicts_with = "redis_url",
        help_heading = "Storage"
    )]
    pub redis_url_file: Option<PathBuf>,
    /// PEM file of the certificates to check the broker's certificate against [default: the system's certificates]
    #[arg(long, env = "ODDSWIRE_REDIS_CA_FILE", value_name = "FILE", help_heading = "Storage")]
    pub redis_ca_file: Option<PathBuf>,
    /// Namespace of all keys in the broker. Nodes with the same namespace are one deployment
    #[arg(long, env = "ODDSWIRE_REDIS_NAMESPACE", value_name = "NAME", default_value = "oddswire",
          value_parser = namespace, help_heading = "Storage")]
    pub redis_namespace: String,
    /// Maximum number of messages in each topic's history
    #[arg(long, env = "ODDSWIRE_HISTORY_MESSAGES", value_name = "COUNT", default_value = "1000",
          value_parser = count(0, 10_000_000), help_heading = "Storage")]
    pub history_messages: usize,
    /// Maximum size of each topic's history
    #[arg(long, env = "ODDSWIRE_HISTORY_BYTES", value_name = "SIZE", default_value = "8MiB",
          value_parser = Size(0, 64 << 30), help_heading = "Storage")]
    pub history_bytes: usize,
    /// Age at which a message leaves its topic's history
    #[arg(long, env = "ODDSWIRE_HISTORY_AGE", value_name = "DURATION", default_value = "1h",
          value_parser = Between(ms(1), secs(MONTH)), help_heading = "Storage")]
    pub history_age: Duration,
    /// Maximum number of keys in each topic's state; the server refuses a publish that would exceed it
    #[arg(long, env = "ODDSWIRE_STATE_KEYS", value_name = "COUNT", default_value = "100000",
          value_parser = count(1, 10_000_000), help_heading = "Storage")]
    pub state_keys: usize,
    /// Age at which the server forgets the deletion of a key, unless the history still contains it
    #[arg(long, env = "ODDSWIRE_TOMBSTONE_AGE", value_name = "DURATION", default_value = "1h",
          value_parser = Between(ms(1), secs(MONTH)), help_heading = "Storage")]
    pub tombstone_age: Duration,
    /// Confirm a keyed message with unchanged data, but do not deliver it again
    #[arg(long, env = "ODDSWIRE_SUPPRESS_UNCHANGED", value_name = "BOOL", default_value = "true",
          action = clap::ArgAction::Set, help_heading = "Storage")]
    pub suppress_unchanged: bool,

    /// Maximum bytes queued for one client. Beyond it, live delivery to the client stops until it has caught up
    #[arg(long, env = "ODDSWIRE_OUTBOX_BYTES", value_name = "SIZE", default_value = "1MiB",
          value_parser = Size(1 << 10, 1 << 30), help_heading = "Clients")]
    pub outbox_bytes: usize,
    /// Maximum bytes queued for all clients together, at least --outbox-bytes. Beyond it, live delivery stops for the
    /// clients with the most queued bytes until they have caught up
    #[arg(long, env = "ODDSWIRE_MEMORY_BUDGET", value_name = "SIZE", default_value = "1GiB",
          value_parser = Size(1 << 10, 1 << 40), help_heading = "Clients")]
    pub memory_budget: usize,
    /// Disconnect a client that accepts no byte for this long
    #[arg(long, env = "ODDSWIRE_WRITE_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Clients")]
    pub write_timeout: Duration,
    /// Send a WebSocket ping after this long without a byte from the client
    #[arg(long, env = "ODDSWIRE_PING_INTERVAL", value_name = "DURATION", default_value = "25s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Clients")]
    pub ping_interval: Duration,
    /// Close a WebSocket after this long without a byte from the client; longer than --ping-interval
    #[arg(long, env = "ODDSWIRE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "60s",
          value_parser = Between(ms(100), secs(7200)), help_heading = "Clients")]
    pub idle_timeout: Duration,
    /// Send an SSE comment after this long without an event
    #[arg(long, env = "ODDSWIRE_SSE_COMMENT_INTERVAL", value_name = "DURATION", default_value = "15s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Clients")]
    pub sse_comment_interval: Duration,
    /// Longest WebSocket message that a client may send
    #[arg(long, env = "ODDSWIRE_CLIENT_MESSAGE_BYTES", value_name = "SIZE", default_value = "16KiB",
          value_parser = Size(125, 16 << 20), help_heading = "Clients")]
    pub client_message_bytes: usize,
    /// Deadline for the headers of a request to arrive
    #[arg(long, env = "ODDSWIRE_HEADER_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = Between(ms(100), secs(600)), help_heading = "Clients")]
    pub header_timeout: Duration,

    /// Maximum number of WebSocket and SSE connections; the server answers further ones with 503
    #[arg(long, env = "ODDSWIRE_MAX_CONNECTIONS", value_name = "COUNT", default_value = "100000",
          value_parser = count(1, 10_000_000), help_heading = "Clients")]
    pub max_connections: usize,
    /// Maximum number of WebSocket and SSE connections from one address (IPv6: from one /64); 0 means no limit
    #[arg(long, env = "ODDSWIRE_MAX_CONNECTIONS_PER_IP", value_name = "COUNT", default_value = "0",
          value_parser = count(0, 10_000_000), help_heading = "Clients")]
    pub max_connections_per_ip: usize,
    /// Networks of trusted proxies, comma-separated. The server reads the client's address from their Forwarded and
    /// X-Forwarded-For headers
    #[arg(long, env = "ODDSWIRE_TRUSTED_PROXIES", value_name = "CIDRS", default_value = "", help_heading = "Clients")]
    pub trusted_proxies: TrustedProxies,
    /// Messages per second that a client may send over WebSocket; a burst may be twice as large
    #[arg(long, env = "ODDSWIRE_CLIENT_MESSAGES_PER_SECOND", value_name = "COUNT", default_value = "20",
          value_parser = count(1, 1_000_000), help_heading = "Clients")]
    pub client_messages_per_second: usize,
    /// Maximum number of subscriptions per connection
    #[arg(long, env = "ODDSWIRE_SUBSCRIPTIONS_PER_CONNECTION", value_name = "COUNT", default_value = "100",
          value_parser = count(1, 100_000), help_heading = "Clients")]
    pub subscriptions_per_connection: usize,
    /// Origins whose pages may connect, comma-separated: exact, https://*.example.com, or * [default: the same host]
    #[arg(long, env = "ODDSWIRE_ALLOWED_ORIGINS", value_name = "ORIGINS", help_heading = "Clients")]
    pub allowed_origins: Option<Origins>,
    /// Shared secret (HS256) for subscribers' tokens. If it is set, subscribers need a token
    #[arg(long, env = "ODDSWIRE_SUBSCRIBER_JWT_SECRET", value_name = "SECRET", hide_env_values = true,
          conflicts_with_all = ["subscriber_jwt_secret_file", "subscriber_jwks_file"], help_heading = "Clients")]
    pub subscriber_jwt_secret: Option<Token>,
    /// File that contains the secret, instead of --subscriber-jwt-secret
    #[arg(
        long,
        env = "ODDSWIRE_SUBSCRIBER_JWT_SECRET_FILE",
        value_name = "FILE",
        conflicts_with = "subscriber_jwks_file",
        help_heading = "Clients"
    )]
    pub subscriber_jwt_secret_file: Option<PathBuf>,
    /// File with the JSON Web Key Set (RS256, ES256, EdDSA) for subscribers' tokens. If it is set, subscribers need a
    /// token
    #[arg(long, env = "ODDSWIRE_SUBSCRIBER_JWKS_FILE", value_name = "FILE", help_heading = "Clients")]
    pub subscriber_jwks_file: Option<PathBuf>,
    /// Name of a cookie that may carry a subscriber's token
    #[arg(long, env = "ODDSWIRE_SUBSCRIBER_COOKIE", value_name = "NAME", help_heading = "Clients")]
    pub subscriber_cookie: Option<String>,

    /// Longest body of a publish request
    #[arg(long, env = "ODDSWIRE_PUBLISH_BODY_BYTES", value_name = "SIZE", default_value = "8MiB",
          value_parser = Size(1 << 10, 1 << 30), help_heading = "Publishers")]
    pub publish_body_bytes: usize,
    /// Longest message in a publish request, counted as JSON text in the body
    #[arg(long, env = "ODDSWIRE_PUBLISH_MESSAGE_BYTES", value_name = "SIZE", default_value = "64KiB",
          value_parser = Size(64, 1 << 30), help_heading = "Publishers")]
    pub publish_message_bytes: usize,

    /// Maximum number of messages in a publish request. Other requests wait while the server takes one
    #[arg(long, env = "ODDSWIRE_PUBLISH_BATCH_MESSAGES", value_name = "COUNT", default_value = "10000",
          value_parser = count(1, 1_000_000), help_heading = "Publishers")]
    pub publish_batch_messages: usize,
    /// Deadline for the body of a publish request to arrive
    #[arg(long, env = "ODDSWIRE_PUBLISH_BODY_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Publishers")]
    pub publish_body_timeout: Duration,
    /// Requests per second that each publisher may send; a burst may be twice as large; 0 means no limit
    #[arg(long, env = "ODDSWIRE_PUBLISHES_PER_SECOND", value_name = "COUNT", default_value = "0",
          value_parser = count(0, 1_000_000), help_heading = "Publishers")]
    pub publishes_per_second: usize,

    /// Address and port of the admin listener: metrics, health and connections, for operators only; 'off' disables it
    #[arg(long, env = "ODDSWIRE_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9100",
          value_parser = admin_address, help_heading = "Operation")]
    pub admin_listen: AdminListen,
    /// Serve the console at /: a page that shows topics, messages and progress
    #[arg(long, env = "ODDSWIRE_CONSOLE", value_name = "BOOL", default_value = "true",
          action = clap::ArgAction::Set, help_heading = "Operation")]
    pub console: bool,
    /// Longest head of a request: request line and headers
    #[arg(long, env = "ODDSWIRE_HEADER_BYTES", value_name = "SIZE", default_value = "16KiB",
          value_parser = Size(8 << 10, 1 << 20), help_heading = "Operation")]
    pub header_bytes: usize,
    /// Time over which a shutdown spreads the closing of connections, so that clients do not reconnect all at once. At
    /// most half of --drain-timeout takes effect
    #[arg(long, env = "ODDSWIRE_DRAIN_SPREAD", value_name = "DURATION", default_value = "10s",
          value_parser = Between(ms(0), secs(3600)), help_heading = "Operation")]
    pub drain_spread: Duration,
    /// How long a shutdown waits for connections and publishes to end, before it cuts them off
    #[arg(long, env = "ODDSWIRE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = Between(ms(1), secs(3600)), help_heading = "Operation")]
    pub drain_timeout: Duration,
}

impl Default for Config {
    /// The defaults of all settings. Ignores the environment.
    fn default() -> Self {
        let without_environment =
            Self::augment_args(clap::Command::new("oddswire")).mut_args(|arg| arg.env(None::<&str>));
        let matches = without_environment.get_matches_from(["oddswire"]);
        Self::from_arg_matches(&matches).expect("the defaults are valid")
    }
}

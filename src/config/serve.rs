//! The settings of `serve`: flag, environment variable, unit, bound and default of each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, FromArgMatches as _, ValueEnum};

use super::values::{AdminListen, Between, MONTH, Size, address, admin_address, count, ms, namespace, secs};
use crate::admission::TrustedProxies;
use crate::auth::{Origins, Token};
use crate::topic::Topics;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `term` on a terminal, `json` otherwise.
    Auto,
    /// Lines for people.
    Term,
    /// One JSON object a line.
    Json,
}

/// The least severe records that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Something is lost or broken.
    Error,
    /// Something is odd.
    Warn,
    /// What happens.
    Info,
    /// Why it happens.
    Debug,
}

/// Who orders and keeps messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// This process, in memory.
    Memory,
    /// This process, in a file that outlives it.
    Journal,
    /// Redis or Valkey, for many nodes.
    Redis,
}

/// When what is published is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncWhen {
    /// Before it is answered and delivered.
    Always,
    /// This long after, at the latest.
    Interval(Duration),
}

impl FromStr for SyncWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected 'always' or 'interval:<milliseconds>' from 1 to 60000, such as interval:100".to_owned();
        if text == "always" {
            return Ok(Self::Always);
        }
        let number = text.strip_prefix("interval:").ok_or_else(wrong)?;
        let millis = number.strip_suffix("ms").unwrap_or(number).parse().ok();
        millis.filter(|millis| (1..=60_000).contains(millis)).map(|millis| Self::Interval(ms(millis))).ok_or_else(wrong)
    }
}

/// The settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address and port to serve on
    #[arg(long, env = "ODDSWIRE_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8000",
          value_parser = address)]
    pub listen: SocketAddr,
    /// Topics, comma separated: each 1 to 64 bytes of a-z, 0-9 and _
    #[arg(long, env = "ODDSWIRE_TOPICS", value_name = "NAMES", default_value = "scrape_progress,odds_updates")]
    pub topics: Topics,
    /// Token that publishers send as 'Authorization: Bearer TOKEN'; without one nobody can publish
    #[arg(
        long,
        env = "ODDSWIRE_PUBLISH_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Publishers"
    )]
    pub publish_token: Option<Token>,
    /// File of publishers, one 'name:token' or 'name:token:topics' a line; read again on SIGHUP
    #[arg(long, env = "ODDSWIRE_PUBLISH_TOKEN_FILE", value_name = "FILE", help_heading = "Publishers")]
    pub publish_token_file: Option<PathBuf>,
    /// How logs are written: lines for people on a terminal, JSON otherwise
    #[arg(long, env = "ODDSWIRE_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// Least severe records to write
    #[arg(long, env = "ODDSWIRE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Who orders and keeps messages
    #[arg(
        long,
        env = "ODDSWIRE_ENGINE",
        value_name = "ENGINE",
        default_value = "memory",
        help_heading = "What is kept"
    )]
    pub engine: EngineKind,
    /// Directory of the journal; needed with --engine journal, one for each server
    #[arg(long, env = "ODDSWIRE_DATA_DIR", value_name = "DIR", help_heading = "What is kept")]
    pub data_dir: Option<PathBuf>,
    /// When the journal has a publish on the disk: 'always' is before it is answered, 'interval:100' is that
    /// many milliseconds later at most, which a crash may lose
    #[arg(long, env = "ODDSWIRE_SYNC", value_name = "WHEN", default_value = "always", help_heading = "What is kept")]
    pub sync: SyncWhen,
    /// Put the journal's file aside under another name, and begin a new one
    #[arg(long, help_heading = "What is kept")]
    pub reset_data: bool,
    /// URL of the broker of --engine redis: redis://user:password@host:port/db, rediss:// for TLS,
    /// redis-sentinel://host:port,host:port/master, redis-cluster://host:port,host:port
    #[arg(long, env = "ODDSWIRE_REDIS_URL", value_name = "URL", hide_env_values = true, help_heading = "What is kept")]
    pub redis_url: Option<Token>,
    /// File that holds the URL, in place of --redis-url
    #[arg(
        long,
        env = "ODDSWIRE_REDIS_URL_FILE",
        value_name = "FILE",
        conflicts_with = "redis_url",
        help_heading = "What is kept"
    )]
    pub redis_url_file: Option<PathBuf>,
    /// File of certificates, in PEM, that the broker's is checked against; the system's where there is none
    #[arg(long, env = "ODDSWIRE_REDIS_CA_FILE", value_name = "FILE", help_heading = "What is kept")]
    pub redis_ca_file: Option<PathBuf>,
    /// What the names of everything in the broker begin with: nodes with the same one are one deployment
    #[arg(long, env = "ODDSWIRE_REDIS_NAMESPACE", value_name = "NAME", default_value = "oddswire",
          value_parser = namespace, help_heading = "What is kept")]
    pub redis_namespace: String,
    /// Messages kept in each topic's history
    #[arg(long, env = "ODDSWIRE_HISTORY_MESSAGES", value_name = "COUNT", default_value = "1000",
          value_parser = count(0, 10_000_000), help_heading = "What is kept")]
    pub history_messages: usize,
    /// Bytes kept in each topic's history
    #[arg(long, env = "ODDSWIRE_HISTORY_BYTES", value_name = "SIZE", default_value = "8MiB",
          value_parser = Size(0, 64 << 30), help_heading = "What is kept")]
    pub history_bytes: usize,
    /// Age of the oldest message in a topic's history
    #[arg(long, env = "ODDSWIRE_HISTORY_AGE", value_name = "DURATION", default_value = "1h",
          value_parser = Between(ms(1), secs(MONTH)), help_heading = "What is kept")]
    pub history_age: Duration,
    /// Keys in each topic's state; a publish beyond it is refused
    #[arg(long, env = "ODDSWIRE_STATE_KEYS", value_name = "COUNT", default_value = "100000",
          value_parser = count(1, 10_000_000), help_heading = "What is kept")]
    pub state_keys: usize,
    /// How long the deletion of a key is remembered; one that the history still has is remembered in any case
    #[arg(long, env = "ODDSWIRE_TOMBSTONE_AGE", value_name = "DURATION", default_value = "1h",
          value_parser = Between(ms(1), secs(MONTH)), help_heading = "What is kept")]
    pub tombstone_age: Duration,
    /// Confirm a keyed message whose data is unchanged without delivering it again
    #[arg(long, env = "ODDSWIRE_SUPPRESS_UNCHANGED", value_name = "BOOL", default_value = "true",
          action = clap::ArgAction::Set, help_heading = "What is kept")]
    pub suppress_unchanged: bool,

    /// Bytes on their way to one client, above which it is left behind and catches up
    #[arg(long, env = "ODDSWIRE_OUTBOX_BYTES", value_name = "SIZE", default_value = "1MiB",
          value_parser = Size(1 << 10, 1 << 30), help_heading = "Clients")]
    pub outbox_bytes: usize,
    /// Bytes on their way to all clients together, above which those with most are left behind first; not less than
    /// --outbox-bytes
    #[arg(long, env = "ODDSWIRE_MEMORY_BUDGET", value_name = "SIZE", default_value = "1GiB",
          value_parser = Size(1 << 10, 1 << 40), help_heading = "Clients")]
    pub memory_budget: usize,
    /// A client that takes no byte for this long is closed
    #[arg(long, env = "ODDSWIRE_WRITE_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Clients")]
    pub write_timeout: Duration,
    /// A WebSocket ping is sent after this long without inbound bytes
    #[arg(long, env = "ODDSWIRE_PING_INTERVAL", value_name = "DURATION", default_value = "25s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Clients")]
    pub ping_interval: Duration,
    /// A WebSocket is closed after this long without inbound bytes; longer than the ping interval
    #[arg(long, env = "ODDSWIRE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "60s",
          value_parser = Between(ms(100), secs(7200)), help_heading = "Clients")]
    pub idle_timeout: Duration,
    /// An SSE comment is sent after this long without data
    #[arg(long, env = "ODDSWIRE_SSE_COMMENT_INTERVAL", value_name = "DURATION", default_value = "15s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Clients")]
    pub sse_comment_interval: Duration,
    /// Longest message that a client may send
    #[arg(long, env = "ODDSWIRE_CLIENT_MESSAGE_BYTES", value_name = "SIZE", default_value = "16KiB",
          value_parser = Size(125, 16 << 20), help_heading = "Clients")]
    pub client_message_bytes: usize,
    /// A request's headers must be complete within this time
    #[arg(long, env = "ODDSWIRE_HEADER_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = Between(ms(100), secs(600)), help_heading = "Clients")]
    pub header_timeout: Duration,

    /// Connections in all; a further one is answered 503
    #[arg(long, env = "ODDSWIRE_MAX_CONNECTIONS", value_name = "COUNT", default_value = "100000",
          value_parser = count(1, 10_000_000), help_heading = "Clients")]
    pub max_connections: usize,
    /// Connections from one address (IPv6: from one /64); 0 is no limit
    #[arg(long, env = "ODDSWIRE_MAX_CONNECTIONS_PER_IP", value_name = "COUNT", default_value = "0",
          value_parser = count(0, 10_000_000), help_heading = "Clients")]
    pub max_connections_per_ip: usize,
    /// Networks of proxies, comma separated, whose Forwarded and X-Forwarded-For tell the client's address
    #[arg(long, env = "ODDSWIRE_TRUSTED_PROXIES", value_name = "CIDRS", default_value = "", help_heading = "Clients")]
    pub trusted_proxies: TrustedProxies,
    /// Messages a second that a client may send, with bursts of twice as many
    #[arg(long, env = "ODDSWIRE_CLIENT_MESSAGES_PER_SECOND", value_name = "COUNT", default_value = "20",
          value_parser = count(1, 1_000_000), help_heading = "Clients")]
    pub client_messages_per_second: usize,
    /// Subscriptions that one connection may have
    #[arg(long, env = "ODDSWIRE_SUBSCRIPTIONS_PER_CONNECTION", value_name = "COUNT", default_value = "100",
          value_parser = count(1, 100_000), help_heading = "Clients")]
    pub subscriptions_per_connection: usize,
    /// Origins whose pages may connect, comma separated: exact, https://*.example.com, or * [default: the same host]
    #[arg(long, env = "ODDSWIRE_ALLOWED_ORIGINS", value_name = "ORIGINS", help_heading = "Clients")]
    pub allowed_origins: Option<Origins>,
    /// Shared secret (HS256) of subscribers' tokens; with it subscribers need one
    #[arg(long, env = "ODDSWIRE_SUBSCRIBER_JWT_SECRET", value_name = "SECRET", hide_env_values = true,
          conflicts_with_all = ["subscriber_jwt_secret_file", "subscriber_jwks_file"], help_heading = "Clients")]
    pub subscriber_jwt_secret: Option<Token>,
    /// File that holds the secret, in place of --subscriber-jwt-secret
    #[arg(
        long,
        env = "ODDSWIRE_SUBSCRIBER_JWT_SECRET_FILE",
        value_name = "FILE",
        conflicts_with = "subscriber_jwks_file",
        help_heading = "Clients"
    )]
    pub subscriber_jwt_secret_file: Option<PathBuf>,
    /// File with the JSON Web Key Set (RS256, ES256, EdDSA) of subscribers' tokens; with it subscribers need one
    #[arg(long, env = "ODDSWIRE_SUBSCRIBER_JWKS_FILE", value_name = "FILE", help_heading = "Clients")]
    pub subscriber_jwks_file: Option<PathBuf>,
    /// Cookie that may carry a subscriber's token
    #[arg(long, env = "ODDSWIRE_SUBSCRIBER_COOKIE", value_name = "NAME", help_heading = "Clients")]
    pub subscriber_cookie: Option<String>,

    /// Longest body of a publish request
    #[arg(long, env = "ODDSWIRE_PUBLISH_BODY_BYTES", value_name = "SIZE", default_value = "8MiB",
          value_parser = Size(1 << 10, 1 << 30), help_heading = "Publishers")]
    pub publish_body_bytes: usize,
    /// Longest message in a publish request, as it stands in the body
    #[arg(long, env = "ODDSWIRE_PUBLISH_MESSAGE_BYTES", value_name = "SIZE", default_value = "64KiB",
          value_parser = Size(64, 1 << 30), help_heading = "Publishers")]
    pub publish_message_bytes: usize,

    /// Most messages in a publish request: it is taken in one step, which others wait for
    #[arg(long, env = "ODDSWIRE_PUBLISH_BATCH_MESSAGES", value_name = "COUNT", default_value = "10000",
          value_parser = count(1, 1_000_000), help_heading = "Publishers")]
    pub publish_batch_messages: usize,
    /// The body of a publish request must be complete within this time
    #[arg(long, env = "ODDSWIRE_PUBLISH_BODY_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = Between(ms(100), secs(3600)), help_heading = "Publishers")]
    pub publish_body_timeout: Duration,
    /// Publish requests a second of each token, with bursts of twice as many; 0 is no limit
    #[arg(long, env = "ODDSWIRE_PUBLISHES_PER_SECOND", value_name = "COUNT", default_value = "0",
          value_parser = count(0, 1_000_000), help_heading = "Publishers")]
    pub publishes_per_second: usize,

    /// Address and port of metrics, health and connections, for operators only; 'off' for none
    #[arg(long, env = "ODDSWIRE_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9100",
          value_parser = admin_address, help_heading = "Operation")]
    pub admin_listen: AdminListen,
    /// Serve the console, a page that shows what goes on, at /
    #[arg(long, env = "ODDSWIRE_CONSOLE", value_name = "BOOL", default_value = "true",
          action = clap::ArgAction::Set, help_heading = "Operation")]
    pub console: bool,
    /// Longest head of a request, in bytes
    #[arg(long, env = "ODDSWIRE_HEADER_BYTES", value_name = "SIZE", default_value = "16KiB",
          value_parser = Size(8 << 10, 1 << 20), help_heading = "Operation")]
    pub header_bytes: usize,
    /// A shutdown closes connections spread over this time (half the drain timeout at most), so that they do not come
    /// back all at once
    #[arg(long, env = "ODDSWIRE_DRAIN_SPREAD", value_name = "DURATION", default_value = "10s",
          value_parser = Between(ms(0), secs(3600)), help_heading = "Operation")]
    pub drain_spread: Duration,
    /// How long a shutdown waits for connections and publishes to end
    #[arg(long, env = "ODDSWIRE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = Between(ms(1), secs(3600)), help_heading = "Operation")]
    pub drain_timeout: Duration,
}

impl Config {
    /// The settings of a server with nothing set, not even from the environment.
    #[must_use]
    pub fn defaults() -> Self {
        let without_environment =
            Self::augment_args(clap::Command::new("oddswire")).mut_args(|arg| arg.env(None::<&str>));
        let matches = without_environment.get_matches_from(["oddswire"]);
        Self::from_arg_matches(&matches).expect("the defaults are valid")
    }
}

//! Every setting: flag, environment variable, unit, bound and default. Checked once; inside, the values are valid.

pub mod commands;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, CommandFactory, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use self::commands::{ClientCommand, Demo};
use crate::admission::TrustedProxies;
use crate::auth::{self, Origins, Publishers, Token, Verifier};
use crate::topic::Topics;

/// Pushes scrape progress and odds changes to browsers over WebSocket and SSE, by topic.
///
/// Publishers post messages to topics over HTTP (/api/publish); clients receive them at /api/ws and /api/sse. Every
/// setting is a flag and an environment variable, named below. Durations are written 250ms, 30s, 1h,
/// sizes 16KiB, 8MiB.
#[derive(Debug, Parser)]
#[command(name = "oddswire", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    /// What to do; serves where there is none.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings of `serve`.
    #[command(flatten)]
    pub config: Config,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT (what happens without a command)
    Serve(Box<Config>),
    /// Serve, and publish a synthetic market of 200 events and 10 bookmakers to it
    Demo(Box<Demo>),
    /// Ask a running server whether it is alive: exit code 0 if so, 1 if not
    Health(Health),
    /// What people at a terminal do.
    #[command(flatten)]
    Client(ClientCommand),
}

/// The settings of `health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Address of the server; an unspecified one, such as 0.0.0.0, is asked on the loopback interface
    #[arg(long, env = "ODDSWIRE_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8000",
          value_parser = address)]
    pub listen: SocketAddr,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = Between(ms(1), secs(60)))]
    pub timeout: Duration,
}

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
    /// How long the deletion of a key is remembered
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

/// A setting that cannot be used: one line that names it, its value, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// The settings of a server with nothing set, not even from the environment.
    #[must_use]
    pub fn defaults() -> Self {
        let without_environment = Cli::command().mut_args(|arg| arg.env(None::<&str>));
        let matches = without_environment.get_matches_from(["oddswire"]);
        <Cli as clap::FromArgMatches>::from_arg_matches(&matches).expect("the defaults are valid").config
    }

    /// Checks what no single setting can tell, and reads the token's file.
    pub fn check(mut self) -> Result<Self, ConfigError> {
        let too_small = |small: &str, small_is: String, large: &str, large_is: String| {
            ConfigError(format!("{small} is {small_is}: it must be more than {large}, which is {large_is}"))
        };
        if self.idle_timeout <= self.ping_interval {
            let [idle, ping] =
                [self.idle_timeout, self.ping_interval].map(|d| humantime::format_duration(d).to_string());
            return Err(too_small("idle-timeout", idle, "ping-interval", ping));
        }
        if self.publish_body_bytes <= self.publish_message_bytes {
            let sizes = [self.publish_body_bytes, self.publish_message_bytes];
            let [body, message] = sizes.map(|size| format!("{size} bytes"));
            return Err(too_small("publish-body-bytes", body, "publish-message-bytes", message));
        }
        if self.memory_budget < self.outbox_bytes {
            let [budget, outbox] = [self.memory_budget, self.outbox_bytes];
            return Err(ConfigError(format!(
                "memory-budget is {budget} bytes: it must not be less than outbox-bytes, which is {outbox} bytes"
            )));
        }
        if self.engine == EngineKind::Journal && self.data_dir.as_ref().is_none_or(|dir| dir.as_os_str().is_empty()) {
            return Err(ConfigError(
                "data-dir is not set: engine journal needs a directory to keep its file in, such as /var/lib/oddswire"
                    .to_owned(),
            ));
        }
        if self.engine != EngineKind::Journal && self.reset_data {
            return Err(ConfigError("reset-data is given, and there is no data: it needs engine journal".to_owned()));
        }
        if let Some(path) = self.subscriber_jwt_secret_file.take() {
            let text = auth::read_secret_file("subscriber-jwt-secret-file", &path).map_err(ConfigError)?;
            let secret = text.trim().parse();
            self.subscriber_jwt_secret = Some(secret.map_err(|error: String| {
                ConfigError(format!("subscriber-jwt-secret-file '{}': {error}", path.display()))
            })?);
        }
        if let Some(secret) = &self.subscriber_jwt_secret
            && secret.expose().len() < MIN_SECRET_BYTES
        {
            return Err(ConfigError(format!(
                "subscriber-jwt-secret has {} bytes: HS256 needs {MIN_SECRET_BYTES} or more (RFC 7518, section 3.2)",
                secret.expose().len()
            )));
        }
        self.publishers()?;
        self.verifier()?;
        if self.engine == EngineKind::Redis {
            self.broker()?;
        }
        Ok(self)
    }

    /// Everybody who may publish, as the setting and the file say now.
    pub fn publishers(&self) -> Result<Publishers, ConfigError> {
        let path = self.publish_token_file.as_deref();
        let named = |error: String| match path {
            Some(path) => format!("publish-token-file '{}': {error}", path.display()),
            None => error,
        };
        let file =
            path.map(|path| auth::read_secret_file("publish-token-file", path)).transpose().map_err(ConfigError)?;
        let publishers = Publishers::new(self.publish_token.as_ref(), file.as_deref(), &self.topics);
        publishers.map_err(|error| ConfigError(named(error)))
    }

    /// The URL of the broker, and the certificates that its own is checked against.
    pub fn broker(&self) -> Result<(String, Option<Vec<u8>>), ConfigError> {
        let url = match (&self.redis_url, &self.redis_url_file) {
            (Some(url), _) => url.expose().to_owned(),
            (None, Some(path)) => {
                let text = auth::read_secret_file("redis-url-file", path).map_err(ConfigError)?;
                text.trim().to_owned()
            }
            (None, None) => {
                let wanted = "redis-url, such as redis://localhost:6379, or redis-url-file";
                return Err(ConfigError(format!("engine is redis: set {wanted}")));
            }
        };
        let read = |path: &PathBuf| {
            let refused = |reason: &str| ConfigError(format!("redis-ca-file '{}': {reason}", path.display()));
            let text = std::fs::read(path).map_err(|error| refused(&error.to_string()))?;
            let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
            let certificates = certificates.map_err(|error| refused(&error.to_string()))?;
            // With none, every broker would be refused, and nobody told why.
            match RootCertStore::empty().add_parsable_certificates(certificates) {
                (1.., 0) => Ok(text),
                _ => Err(refused("expected one or more certificates in PEM")),
            }
        };
        Ok((url, self.redis_ca_file.as_ref().map(read).transpose()?))
    }

    /// What checks subscribers' tokens; `None` where they need none.
    pub fn verifier(&self) -> Result<Option<Verifier>, ConfigError> {
        if let Some(secret) = &self.subscriber_jwt_secret {
            return Ok(Some(Verifier::with_secret(secret)));
        }
        let Some(path) = &self.subscriber_jwks_file else { return Ok(None) };
        let text = auth::read_secret_file("subscriber-jwks-file", path).map_err(ConfigError)?;
        let verifier = Verifier::with_jwks(&text);
        verifier.map(Some).map_err(|error| ConfigError(format!("subscriber-jwks-file '{}': {error}", path.display())))
    }
}

/// Reads the command line and the environment; what cannot be used is one line on standard error and exit code 2.
#[must_use]
pub fn read() -> Cli {
    let mut command = Cli::command();
    // A command has settings of its own: those beside it are not asked of the environment a second time.
    if std::env::args_os().nth(1).is_some_and(|first| command.find_subcommand(first).is_some()) {
        command = command.mut_args(|arg| arg.env(None::<&str>));
    }
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let parsed = parsed.unwrap_or_else(|error| refuse_usage(&error));
    let check = |config: Config| config.check().unwrap_or_else(|error| refuse(&error.to_string()));
    match parsed {
        Cli { command: None, config } => Cli { command: None, config: check(config) },
        Cli { command: Some(Command::Serve(config)), .. } => Cli { command: None, config: check(*config) },
        Cli { command: Some(Command::Demo(demo)), config } => {
            let demo = demo.check().unwrap_or_else(|error| refuse(&error.to_string()));
            Cli { command: Some(Command::Demo(Box::new(demo))), config }
        }
        other => other,
    }
}

/// Ends the program where a setting cannot be used: one line on standard error, and exit code 2.
pub fn refuse(reason: &str) -> ! {
    eprintln!("oddswire: {reason}");
    std::process::exit(2)
}

/// Help and version are printed as clap has them; of an error, the line that says what is wrong.
fn refuse_usage(error: &clap::Error) -> ! {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        error.exit()
    }
    let text = without_secret(error);
    let lines: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim).collect();
    let known = lines.iter().filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = known.copied().collect::<Vec<_>>().join(" ");
    refuse(line.trim_start_matches("error: "))
}

/// The text of an error; a secret that is refused is not shown.
fn without_secret(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue};
    const SECRETS: [&str; 4] = ["--publish-token ", "--subscriber-jwt-secret ", "--redis-url ", "--token "];
    let text = error.to_string();
    // A URL may hold a password.
    let is_url = |arg: &str| ["--url ", "[URL]"].iter().any(|url| arg.starts_with(url));
    match (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        (Some(ContextValue::String(arg)), Some(ContextValue::String(value)))
            if SECRETS.iter().any(|secret| arg.starts_with(secret)) || (is_url(arg) && value.contains('@')) =>
        {
            text.replace(&format!("'{value}'"), "(not shown)")
        }
        _ => text,
    }
}

/// Variables that look like settings and are none: most likely misspelt.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where settings are read")]
pub fn unknown_variables() -> Vec<String> {
    let command = Cli::command();
    let of_subcommands = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let known: BTreeSet<OsString> =
        command.get_arguments().chain(of_subcommands).filter_map(|arg| arg.get_env().map(OsString::from)).collect();
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name))
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("ODDSWIRE_"))
        .collect()
}

/// A key for HS256 must be as long as the hash.
const MIN_SECRET_BYTES: usize = 32;
const MONTH: u64 = 30 * 24 * 3600;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port, such as 127.0.0.1:8000 or [::]:8000".to_owned())
}

/// Where the admin listener is; `None` is nowhere.
pub type AdminListen = std::option::Option<SocketAddr>;

fn admin_address(text: &str) -> Result<AdminListen, String> {
    if text == "off" {
        return Ok(None);
    }
    let wrong = "expected an address and a port, such as 127.0.0.1:9100, or 'off'";
    text.parse().map(Some).map_err(|_| wrong.to_owned())
}

fn namespace(text: &str) -> Result<String, String> {
    let valid =
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
    let wrong = || "expected 1 to 64 of the characters a-z, A-Z, 0-9, '_', '-', '.' and ':'".to_owned();
    if valid { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn count(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let count = text.parse().ok().filter(|count| (least..=most).contains(count));
        count.ok_or_else(|| format!("expected a number from {least} to {most}"))
    }
}

/// Parses a duration between two bounds, both included.
#[derive(Debug, Clone, Copy)]
struct Between(Duration, Duration);

impl clap::builder::TypedValueParser for Between {
    type Value = Duration;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Duration, clap::Error> {
        let Self(least, most) = *self;
        let read = move |text: &str| {
            let duration = humantime::parse_duration(text).ok().filter(|duration| (least..=most).contains(duration));
            duration.ok_or_else(|| {
                let [least, most] = [least, most].map(humantime::format_duration);
                format!("expected a duration from {least} to {most}, such as 250ms, 30s or 1h")
            })
        };
        clap::builder::TypedValueParser::parse_ref(&read, cmd, arg, value)
    }
}

/// Parses a size in bytes between two bounds, both included.
#[derive(Debug, Clone, Copy)]
struct Size(usize, usize);

impl clap::builder::TypedValueParser for Size {
    type Value = usize;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<usize, clap::Error> {
        let Self(least, most) = *self;
        let read = move |text: &str| {
            let bytes = text.parse::<ByteSize>().ok().and_then(|size| usize::try_from(size.as_u64()).ok());
            bytes.filter(|bytes| (least..=most).contains(bytes)).ok_or_else(|| {
                let [least, most] = [least, most].map(|bytes| ByteSize(bytes as u64));
                format!("expected a size from {least} to {most}, such as 16KiB or 8MiB")
            })
        };
        clap::builder::TypedValueParser::parse_ref(&read, cmd, arg, value)
    }
}

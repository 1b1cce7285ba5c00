//! The settings of the commands that are clients of a server.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::check::{ConfigError, read_token};
use super::serve::Config;
use super::values::{Between, MONTH, Size, count, ms, secs};
use crate::auth::Token;
use crate::endpoint::Endpoint;
use crate::log::Since;
use crate::topic::{Subscription, Topic};

/// What the program does for people at a terminal.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Show what is published, as it comes; resumes by itself
    Tail(Tail),
    /// Publish a file of messages, one JSON object a line: exit code 0 if all were taken, 1 if not
    Publish(Publish),
    /// Publish recorded messages at the pace at which they were recorded, or faster
    Replay(Replay),
    /// Watch a server: topics, rates, slowest clients
    Top(Top),
    /// Print a script that lets a shell complete this program's arguments
    Completions(Completions),
    /// Print a manual page: `oddswire man | man -l -`
    Man(Man),
}

/// The settings of `tail`.
#[derive(Debug, Clone, Args)]
pub struct Tail {
    /// Address of the server: http, https, ws or wss, with the path that a proxy serves it below
    #[arg(env = "ODDSWIRE_URL", value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: Endpoint,
    /// Topics, comma separated or one a flag; 'odds/8301' is those messages whose key begins with 8301 [default: all]
    #[arg(long = "topic", value_name = "TOPICS", value_delimiter = ',')]
    pub topics: Vec<Subscription>,
    /// Where to begin: 'now', 'snapshot' (the state as it is) or after a position, such as 1763849000000-42
    #[arg(long, value_name = "SINCE", default_value = "now")]
    pub since: Since,
    /// Token of a subscriber, where the server wants one
    #[arg(long, env = "ODDSWIRE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// Print what the server sends, one message a line, byte for byte (line breaks between JSON tokens become spaces)
    #[arg(long)]
    pub json: bool,
    /// Do not cut lines at the width of the terminal
    #[arg(long, conflicts_with = "json")]
    pub full: bool,
    /// A connection on which nothing comes for this long, not even the answer to a ping, is given up
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = Between(ms(100), secs(7200)))]
    pub idle_timeout: Duration,
}

/// Where to publish, and as whom.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Address of the server: http or https, with the path that a proxy serves it below
    #[arg(long, env = "ODDSWIRE_URL", value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: Endpoint,
    /// Token of a publisher
    #[arg(long, env = "ODDSWIRE_PUBLISH_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// File that holds the token; it counts more than --token and its variable
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How long a server that is away, busy or overloaded is tried again before giving up
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = Between(ms(0), secs(MONTH)))]
    pub retry_for: Duration,
}

impl Target {
    /// The token, from where it is.
    pub fn token(&self) -> Result<Token, ConfigError> {
        if let Some(path) = &self.token_file {
            return read_token("token-file", path);
        }
        self.token.clone().ok_or_else(|| {
            ConfigError("publishing needs a token: set --token, ODDSWIRE_PUBLISH_TOKEN or --token-file".to_owned())
        })
    }
}

/// The settings of `publish`.
#[derive(Debug, Clone, Args)]
pub struct Publish {
    /// File of messages, one a line, also compressed with gzip; '-' is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Topic of the messages that name none
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<Topic>,
    /// Where to publish
    #[command(flatten)]
    pub target: Target,
    /// Messages in one request at most
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = count(1, 100_000))]
    pub batch_messages: usize,
    /// Bytes in one request at most; a single message may be longer
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = Size(1 << 10, 1 << 30))]
    pub batch_bytes: usize,
    /// The first line to publish; those before it are passed over
    #[arg(long, value_name = "LINE", default_value = "1", value_parser = count(1, usize::MAX), conflicts_with = "progress")]
    pub from_line: usize,
    /// File that remembers how far publishing came: run again after an interruption, it goes on there, and within five
    /// minutes what was under way is not taken twice. With another server, or once FILE has changed, it is refused. Removed
    /// when all is taken
    #[arg(long, value_name = "FILE")]
    pub progress: Option<PathBuf>,
}

/// The settings of `replay`.
#[derive(Debug, Clone, Args)]
pub struct Replay {
    /// Recording, one {"at": TIME, "key": KEY, "data": DATA} a line, or what 'tail --json' printed (the messages of topics
    /// only), also compressed with gzip; '-' is standard input. A time is RFC 3339 or Unix milliseconds
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How many times faster than it was recorded: 1x, 10x, 0.5x, or 'max' for as fast as it goes
    #[arg(long, value_name = "SPEED", default_value = "1x")]
    pub speed: Speed,
    /// Which time counts
    #[arg(long, value_name = "TIME", default_value = "at")]
    pub by: By,
    /// Topic of the lines that name none
    #[arg(long, value_name = "TOPIC", default_value = "odds_updates")]
    pub topic: Topic,
    /// Type of the lines that name none [default: the topic's name]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Where to publish
    #[command(flatten)]
    pub target: Target,
}

/// How fast a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times faster than it was recorded.
    Times(f64),
    /// Without waiting.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.strip_suffix('x').unwrap_or(text).parse().ok();
        let times = times.filter(|times| (0.001..=1_000_000.0).contains(times));
        times.map(Self::Times).ok_or_else(|| "expected 'max', or 0.001x to 1000000x, such as 10x".to_owned())
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}x"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Which time of a recorded line counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// That of the line, in the order of the lines.
    At,
    /// That of its data, sorted by it: the whole recording is held in memory.
    #[value(name = "seen_at")]
    SeenAt,
}

/// The settings of `demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Messages a second that the market publishes, on average
    #[arg(long, value_name = "COUNT", default_value = "40", value_parser = count(1, 20_000), help_heading = "Market")]
    pub rate: usize,
    /// The same number gives the same market
    #[arg(long, value_name = "NUMBER", help_heading = "Market")]
    pub seed: Option<u64>,
    /// The settings of the server.
    #[command(flatten)]
    pub config: Config,
}

impl Demo {
    /// Checks the settings of the server, and that it has the topics that the market publishes to. The market publishes
    /// with the token that is set, or with one that is made for it.
    pub fn check(mut self) -> Result<Self, ConfigError> {
        let made = || format!("{:032x}", fastrand::u128(..)).parse().expect("digits make a token");
        self.config.publish_token.get_or_insert_with(made);
        for topic in ["odds_updates", "scrape_progress"] {
            if self.config.topics.get(topic).is_none() {
                let topics = &self.config.topics;
                return Err(ConfigError(format!("topics is '{topics}': the demo publishes to '{topic}' too")));
            }
        }
        self.config = self.config.check()?;
        Ok(self)
    }
}

/// Whether what is written to a terminal may be coloured: not where `NO_COLOR` says so (<https://no-color.org>), nor on a
/// terminal that cannot.
#[must_use]
pub fn may_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The settings of `top`.
#[derive(Debug, Clone, Args)]
pub struct Top {
    /// Address of the server's admin listener
    #[arg(env = "ODDSWIRE_ADMIN_URL", value_name = "URL", default_value = "http://127.0.0.1:9100")]
    pub url: Endpoint,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = Between(ms(100), secs(3600)))]
    pub interval: Duration,
    /// Look once, print that and end: what happens in any case where standard output is no terminal
    #[arg(long)]
    pub once: bool,
}

/// The settings of `completions`.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The settings of `man`.
#[derive(Debug, Clone, Args)]
pub struct Man {
    /// The command that it is about [default: the program]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_a_factor_or_max() {
        for (text, speed) in
            [("10x", Speed::Times(10.0)), ("0.5x", Speed::Times(0.5)), ("3", Speed::Times(3.0)), ("max", Speed::Max)]
        {
            assert_eq!(text.parse(), Ok(speed), "{text}");
        }
        for bad in ["", "x", "0x", "-1x", "fast", "NaNx", "infx", "10xx"] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
    }
}

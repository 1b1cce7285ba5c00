//! The settings of the commands.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use oddswire::config::values::{Between, Size, count};
use oddswire::config::{Config, Token};
use oddswire::log::Since;
use oddswire::topic::{Subscription, Topic};

use super::Failure;
use crate::endpoint::Endpoint;

const MONTH: Duration = Duration::from_hours(30 * 24);

/// The commands for people at a terminal.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Show messages as they are published; reconnects and resumes by itself
    #[command(after_help = "\
Examples:
  oddswire tail
  oddswire tail --topic odds_updates/8301 --since snapshot
  oddswire tail --url wss://odds.example.com --json
  oddswire tail --since 1763849000000-42")]
    Tail(Tail),
    /// Publish a file of messages, one JSON object per line: exit code 0 if the server took all, 1 if not
    #[command(after_help = "\
Examples:
  oddswire publish messages.ndjson --token dev-token
  oddswire publish - --topic odds_updates --token-file token.txt
  oddswire publish messages.ndjson.gz --progress progress.json --url https://odds.example.com")]
    Publish(Publish),
    /// Publish recorded messages at the pace of the recording, or faster
    #[command(after_help = "\
Examples:
  oddswire replay recording.ndjson --token dev-token
  oddswire replay recording.ndjson.gz --speed 10x --by seen_at
  oddswire replay - --speed max --topic odds_updates --type odds_update")]
    Replay(Replay),
    /// Watch a server: topics, rates, slowest clients
    #[command(after_help = "\
Examples:
  oddswire top
  oddswire top --url http://10.0.0.5:9100 --interval 5s
  oddswire top --once")]
    Top(Top),
    /// Print a script with which a shell completes the arguments of this program
    #[command(after_help = "\
Examples:
  oddswire completions bash
  oddswire completions zsh")]
    Completions(Completions),
    /// Print a manual page: `oddswire man | man -l -`
    #[command(after_help = "\
Examples:
  oddswire man
  oddswire man tail")]
    Man(Man),
}

/// The settings of `tail`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Tail {
    /// Address of the server: http, https, ws or wss, with the path if a proxy serves it below one
    #[arg(long, env = "ODDSWIRE_URL", value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: Endpoint,
    /// The URL without its flag.
    #[arg(value_name = "URL", hide = true, overrides_with = "url")]
    url_alone: Option<Endpoint>,
    /// Topics, separated by commas or one per flag; 'odds/8301' is the keys of odds that begin with 8301 [default: all]
    #[arg(long = "topic", value_name = "TOPICS", value_delimiter = ',')]
    pub(crate) topics: Vec<Subscription>,
    /// Where to begin: 'now', 'snapshot' (the current state), or after a position, such as 1763849000000-42
    #[arg(long, value_name = "SINCE", default_value = "now")]
    pub(crate) since: Since,
    /// Token of a subscriber, if the server requires one
    #[arg(long, env = "ODDSWIRE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Token>,
    /// Print what the server sends, one message per line, byte for byte (line breaks between JSON tokens become spaces)
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not cut lines at the width of the terminal
    #[arg(long, conflicts_with = "json")]
    pub(crate) full: bool,
    /// Reconnect after this long without any data from the server; the answer to a ping is data
    #[arg(long, value_name = "DURATION", default_value = "60s",
          value_parser = Between(Duration::from_millis(100), Duration::from_secs(7200)))]
    pub(crate) idle_timeout: Duration,
}

impl Tail {
    /// The server to follow.
    pub(crate) fn url(&self) -> &Endpoint {
        self.url_alone.as_ref().unwrap_or(&self.url)
    }
}

/// The server to publish to, and the publisher's token.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Address of the server: http or https, with the path if a proxy serves it below one
    #[arg(long, env = "ODDSWIRE_URL", value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub(crate) url: Endpoint,
    /// Token of a publisher
    #[arg(long, env = "ODDSWIRE_PUBLISH_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Token>,
    /// File with the token; overrides --token and its variable
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How long to retry if the server is unreachable, busy or overloaded
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = Between(Duration::ZERO, MONTH))]
    pub(crate) retry_for: Duration,
}

impl Target {
    /// The token, from the file or else from the flag or the variable.
    pub(super) fn token(&self) -> Result<Token, Failure> {
        if let Some(path) = &self.token_file {
            let refused =
                |reason: &dyn fmt::Display| Failure::Usage(format!("token-file '{}': {reason}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
            return text.trim().parse().map_err(|error: String| refused(&error));
        }
        self.token.clone().ok_or_else(|| {
            Failure::Usage("publishing needs a token: set --token, ODDSWIRE_PUBLISH_TOKEN or --token-file".to_owned())
        })
    }
}

/// The settings of `publish`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Publish {
    /// File of messages, one per line, plain or compressed with gzip; '-' is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Topic of the messages that name none
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<Topic>,
    /// Where to publish
    #[command(flatten)]
    pub(crate) target: Target,
    /// Most messages in one request
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = count(1, 100_000))]
    pub(crate) batch_messages: usize,
    /// Most bytes in one request; a single message may be longer
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = Size(1 << 10, 1 << 30))]
    pub(crate) batch_bytes: usize,
    /// First line to publish; earlier lines are skipped
    #[arg(long, value_name = "LINE", default_value = "1", value_parser = count(1, usize::MAX), conflicts_with = "progress")]
    pub(crate) from_line: usize,
    /// File that remembers the last published line. After an interruption, the same command continues there. Within five
    /// minutes, no message is published twice. The command fails if the server or FILE has changed. It removes the file
    /// at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) progress: Option<PathBuf>,
}

/// The settings of `replay`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Replay {
    /// Recording, one {"at": TIME, "key": KEY, "data": DATA} per line, or the output of 'tail --json' (only messages with
    /// a topic are published), plain or compressed with gzip; '-' is standard input. A time is RFC 3339 or Unix milliseconds
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Speed compared to the recording: 1x, 10x, 0.5x, or 'max' for no waiting
    #[arg(long, value_name = "SPEED", default_value = "1x")]
    pub(crate) speed: Speed,
    /// Which time decides when a message is published
    #[arg(long, value_name = "TIME", default_value = "at")]
    pub(crate) by: By,
    /// Topic of the lines that name none
    #[arg(long, value_name = "TOPIC", default_value = "odds_updates")]
    pub(crate) topic: Topic,
    /// Type of the lines that name none [default: the topic's name]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Where to publish
    #[command(flatten)]
    pub(crate) target: Target,
}

/// How fast a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// This many times as fast as the recording.
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

/// Which time of a recorded line decides when it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The time of the line; lines keep their order
    At,
    /// The time in the line's data. Lines are sorted by it, so the whole recording is held in memory
    #[value(name = "seen_at")]
    SeenAt,
}

/// The settings of `demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Demo {
    /// Messages per second that the market publishes, on average
    #[arg(long, value_name = "COUNT", default_value = "40", value_parser = count(1, 20_000), help_heading = "Market")]
    pub(crate) rate: usize,
    /// Seed of the market: the same number gives the same market
    #[arg(long, value_name = "NUMBER", help_heading = "Market")]
    pub(crate) seed: Option<u64>,
    /// The settings of the server.
    #[command(flatten)]
    pub(crate) config: Config,
}

impl Demo {
    /// Checks the settings of the server, and that it has the topics of the market. Makes a token for the market if none
    /// is set.
    pub(crate) fn check(mut self) -> Result<Self, String> {
        let made = || format!("{:032x}", fastrand::u128(..)).parse().expect("digits make a token");
        self.config.publish_token.get_or_insert_with(made);
        for topic in ["odds_updates", "scrape_progress"] {
            if self.config.topics.get(topic).is_none() {
                let topics = &self.config.topics;
                return Err(format!("topics is '{topics}': it must contain '{topic}', to which the demo publishes"));
            }
        }
        self.config = self.config.check().map_err(|error| error.to_string())?;
        Ok(self)
    }
}

/// The settings of `top`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Top {
    /// Address of the server's admin listener: http or https
    #[arg(long, env = "ODDSWIRE_ADMIN_URL", value_name = "URL", default_value = "http://127.0.0.1:9100")]
    url: Endpoint,
    /// The URL without its flag.
    #[arg(value_name = "URL", hide = true, overrides_with = "url")]
    url_alone: Option<Endpoint>,
    /// Time between two samples
    #[arg(long, value_name = "DURATION", default_value = "1s",
          value_parser = Between(Duration::from_millis(100), Duration::from_secs(3600)))]
    pub(crate) interval: Duration,
    /// Print the figures once and exit; always the case if standard input or output is not a terminal
    #[arg(long)]
    pub(crate) once: bool,
}

impl Top {
    /// The admin listener to watch.
    pub(crate) fn url(&self) -> &Endpoint {
        self.url_alone.as_ref().unwrap_or(&self.url)
    }
}

/// The settings of `completions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// The settings of `man`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Man {
    /// The command to describe [default: the program]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_a_factor_or_max() {
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

//! Parsers for the values of single settings. Each parser's error says which values are allowed.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

pub(super) const MONTH: u64 = 30 * 24 * 3600;

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Parses an address with a port.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port, such as 127.0.0.1:8000 or [::]:8000".to_owned())
}

/// The address of the admin listener; `None` disables it.
pub type AdminListen = std::option::Option<SocketAddr>;

pub(super) fn admin_address(text: &str) -> Result<AdminListen, String> {
    if text == "off" {
        return Ok(None);
    }
    let wrong = "expected an address and a port, such as 127.0.0.1:9100, or 'off'";
    text.parse().map(Some).map_err(|_| wrong.to_owned())
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    let valid =
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
    let wrong = || "expected 1 to 64 of the characters a-z, A-Z, 0-9, '_', '-', '.' and ':'".to_owned();
    if valid { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// Makes a parser of numbers from `least` to `most`, inclusive.
pub fn count(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let count = text.parse().ok().filter(|count| (least..=most).contains(count));
        count.ok_or_else(|| format!("expected a number from {least} to {most}"))
    }
}

/// Parses a duration from the first to the second bound, inclusive.
#[derive(Debug, Clone, Copy)]
pub struct Between(pub Duration, pub Duration);

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

/// Parses a size in bytes from the first to the second bound, inclusive.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub usize, pub usize);

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

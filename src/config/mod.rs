//! The settings of the server: flags, environment variables, units, bounds and defaults. The program checks the
//! settings once, so that all later code can rely on valid values.
//!
//! [`Config`] is a [`clap::Parser`]: `Config::try_parse_from` reads flags and the environment. [`Config::default`]
//! reads neither.
//!
//! - `serve`: the settings; [`values`]: parsers of single values; `check`: checks across settings.
//! - `broker`: the broker's URL and certificates, for the engine `redis`.

#[cfg(feature = "redis")]
mod broker;
mod check;
mod serve;
pub mod values;

pub use self::check::ConfigError;
pub use self::serve::{Config, EngineKind, LogFormat, LogLevel, SyncWhen};
pub use self::values::AdminListen;
pub use crate::admission::TrustedProxies;
pub use crate::auth::{Origins, Token};

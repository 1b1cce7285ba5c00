//! The log on standard error: readable lines on a terminal, otherwise one JSON object per line.

use std::io::{IsTerminal as _, LineWriter, stderr};

use slog::{Drain, FnValue, Level, LevelFilter, Logger, PushFnValue, o};
use slog_async::{Async, AsyncGuard};

use crate::config::{LogFormat, LogLevel};
use crate::message::Timestamp;

/// The maximum number of records that wait for the terminal or pipe. The logger drops further records, and logs how
/// many.
const QUEUE: usize = 8192;

/// Creates the logger and its guard. Dropping the guard writes the records that still wait.
pub fn logger(format: LogFormat, level: LogLevel) -> (Logger, AsyncGuard) {
    let level = match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warning,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    };
    let for_people = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Term => true,
        LogFormat::Json => false,
    };
    let (queue, guard) = if for_people {
        let decorator = slog_term::TermDecorator::new().stderr().build();
        asynchronous(slog_term::FullFormat::new(decorator).use_utc_timestamp().build().fuse())
    } else {
        // Write whole lines. Standard error has no buffer: without `LineWriter` each JSON token would be a system call.
        let json = slog_json::Json::new(LineWriter::new(stderr())).add_key_value(o!(
            "event" => PushFnValue(|record: &slog::Record<'_>, serializer| serializer.emit(record.msg())),
            "level" => FnValue(|record: &slog::Record<'_>| record.level().as_str()),
            "ts" => FnValue(|_: &slog::Record<'_>| Timestamp::now().to_string()),
        ));
        asynchronous(json.build().fuse())
    };
    (Logger::root(LevelFilter::new(queue, level).fuse(), o!()), guard)
}

fn asynchronous(drain: impl Drain<Ok = (), Err = slog::Never> + Send + 'static) -> (slog::Fuse<Async>, AsyncGuard) {
    let (queue, guard) = Async::new(drain).chan_size(QUEUE).build_with_guard();
    (queue.fuse(), guard)
}

/// Writes panics to the log, in the log's format. By default Rust would write plain text between the log lines.
pub fn log_panics(logger: &Logger) {
    let logger = logger.clone();
    std::panic::set_hook(Box::new(move |panic| {
        slog::crit!(logger, "panic"; "message" => panic.payload_as_str().unwrap_or("(no text)"),
            "location" => panic.location().map(ToString::to_string));
    }));
}

//! The program: parses the command line, starts a runtime, serves until a signal, drains, and exits with a code.

mod cli;
#[cfg(feature = "cli")]
mod commands;
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "without the commands, only `health` connects"))]
mod dial;
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "without the commands, only `health` connects"))]
mod endpoint;
mod health;
mod signals;
mod systemd;

use std::fmt::Display;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use oddswire::config::Config;
use oddswire::server::Server;
use oddswire::telemetry;
use slog::{Logger, error, warn};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt as _};

use self::cli::{Command, Health};
use self::systemd::ServiceManager;

fn main() -> ExitCode {
    match cli::read() {
        Command::Serve(config) => serve(*config, Asked::Reload, |_, _| ()),
        Command::Health(settings) => check_health(&settings),
        // The demo runs in a terminal, so it stops when the terminal closes (SIGHUP).
        #[cfg(feature = "cli")]
        Command::Demo(demo) => {
            let config = demo.config.clone();
            serve(config, Asked::Stop, |server, logger| commands::demo::feed(&demo, server, logger))
        }
        #[cfg(feature = "cli")]
        Command::Client(command) => commands::run(command, cli::program()),
    }
}

/// What a signal asks the server to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

/// Runs a server with these settings. Calls `begin` once the server listens, and drops the result of `begin` at the
/// end.
fn serve<T>(config: Config, on_hangup: Asked, begin: impl FnOnce(&Server, &Logger) -> T) -> ExitCode {
    if let Err(error) = Server::check(&config) {
        cli::refuse(&error.to_string());
    }
    let (logger, _flush_at_exit) = telemetry::logger(config.log_format, config.log_level);
    telemetry::log_panics(&logger);
    for name in cli::unknown_variables() {
        warn!(logger, "config.unknown_variable"; "name" => name);
    }
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&logger, "the runtime cannot start", &error),
    };
    let code = runtime.block_on(async {
        let signals = match signals(on_hangup) {
            Ok(signals) => signals,
            Err(error) => return fail(&logger, "signals cannot be received", &error),
        };
        let drain_timeout = config.drain_timeout;
        match Server::bind(config, logger.clone()) {
            Ok(server) => {
                let _until_the_end = begin(&server, &logger);
                run(server, signals, drain_timeout, &logger).await
            }
            Err(error) => fail(&logger, "the server cannot start", &error),
        }
    });
    // After a second signal the program exits at once, without waiting for tasks that still run.
    runtime.shutdown_background();
    code
}

/// All signals that the server handles. SIGHUP yields `on_hangup`.
fn signals(on_hangup: Asked) -> io::Result<impl Stream<Item = Asked> + Unpin> {
    let stop = signals::stop()?.map(|()| Asked::Stop);
    let hangup = signals::hangup()?.map(move |()| on_hangup);
    Ok(stop.merge(hangup))
}

/// Serves until the first signal to stop, then drains. A second signal to stop ends the drain at once.
async fn run(
    server: Server,
    signals: impl Stream<Item = Asked> + Unpin,
    drain_timeout: Duration,
    logger: &Logger,
) -> ExitCode {
    let systemd = ServiceManager::new(logger);
    let (reload, starting, address) = (server.reloader(), server.starting(), server.local_addr());
    let mut stops = signals.filter(|asked| {
        if *asked == Asked::Reload {
            systemd.reload(&reload);
        }
        *asked == Asked::Stop
    });
    let (stop, stopping) = oneshot::channel::<()>();
    let running = server.run(async {
        // An error means that the sender was dropped, which asks the server to stop.
        let _: Result<(), _> = stopping.await;
    });
    let serving = async {
        tokio::select! {
            // The server logs its start first.
            biased;
            drained = running => drained,
            never = systemd.announce(address, starting) => match never {},
        }
    };
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // The server ended although no signal asked it to stop.
        _ = serving.as_mut() => return ExitCode::FAILURE,
        _ = stops.next() => {
            systemd.stop(drain_timeout);
            drop(stop);
        }
    }
    tokio::select! {
        _ = serving => ExitCode::SUCCESS,
        _ = stops.next() => {
            warn!(logger, "server.stopped"; "reason" => "a second signal");
            ExitCode::FAILURE
        }
    }
}

fn fail(logger: &Logger, what: &str, error: &dyn Display) -> ExitCode {
    error!(logger, "server.failed"; "what" => what, "error" => %error);
    ExitCode::FAILURE
}

fn check_health(settings: &Health) -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build();
    let checked = runtime.map(|runtime| runtime.block_on(health::check(settings.server(), settings.timeout)));
    let reason = match checked {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => error.to_string(),
        Err(error) => format!("the runtime cannot start: {error}"),
    };
    eprintln!("oddswire: {reason}");
    ExitCode::FAILURE
}

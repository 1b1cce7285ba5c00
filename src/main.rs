//! The program: parses the configuration, starts the runtime, runs, and says by its exit code how that went.

use std::process::ExitCode;

use oddswire::commands::{self, demo::Feed};
use oddswire::config::{self, Cli, Command, Config, Health};
use oddswire::server::Server;
use oddswire::{engine, health, telemetry};
use slog::{Logger, error, warn};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

fn main() -> ExitCode {
    match config::read() {
        Cli { command: Some(Command::Health(settings)), .. } => check_health(&settings),
        Cli { command: Some(Command::Client(command)), .. } => commands::run(command),
        Cli { command: Some(Command::Demo(demo)), .. } => serve(demo.config.clone(), Some(Feed::of(&demo))),
        Cli { command: Some(Command::Serve(config)), .. } => serve(*config, None),
        Cli { command: None, config } => serve(config, None),
    }
}

/// Serves, and feeds itself where it is to.
fn serve(config: Config, feed: Option<Feed>) -> ExitCode {
    if let Err(error) = engine::check(&config) {
        config::refuse(&error.to_string());
    }
    let (logger, _flushed_at_the_end) = telemetry::logger(config.log_format, config.log_level);
    telemetry::log_panics(&logger);
    for name in config::unknown_variables() {
        warn!(logger, "config.unknown_variable"; "name" => name);
    }
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&logger, "the runtime cannot start", &error),
    };
    let code = runtime.block_on(async {
        // Who runs it in a terminal to look at it wants it gone with the terminal.
        let signals = match Signals::new(feed.is_some()) {
            Ok(signals) => signals,
            Err(error) => return fail(&logger, "signals cannot be received", &error),
        };
        let token = config.publish_token.clone();
        match Server::bind(config, logger.clone()) {
            Ok(server) => {
                let feed = feed.zip(token);
                let _until_the_end =
                    feed.map(|(feed, token)| feed.start(server.local_addr(), server.admin_addr(), &token, &logger));
                run(server, signals, &logger).await
            }
            Err(error) => fail(&logger, "the server cannot start", &error),
        }
    });
    // A second signal ends at once: whatever is still under way is not waited for.
    runtime.shutdown_background();
    code
}

/// Serves until the first signal to stop, and drains until the second.
async fn run(server: Server, mut signals: Signals, logger: &Logger) -> ExitCode {
    let reload = server.reloader();
    let (stop, stopping) = oneshot::channel();
    let serving = server.run(async {
        // An error is a sender that is gone, which is a reason to stop, too.
        let _: Result<(), _> = stopping.await;
    });
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // Nobody has asked it to stop.
        _ = serving.as_mut() => return ExitCode::FAILURE,
        () = signals.stop(&reload) => drop(stop),
    }
    tokio::select! {
        _ = serving => ExitCode::SUCCESS,
        () = signals.stop(&reload) => {
            warn!(logger, "server.stopped"; "reason" => "a second signal");
            ExitCode::FAILURE
        }
    }
}

/// The signals that the program knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Whether the terminal's end is a signal to stop, and not to reload.
    hangup_stops: bool,
}

impl Signals {
    fn new(hangup_stops: bool) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            hangup_stops,
        })
    }

    /// Waits for a signal to stop; SIGHUP on the way reloads, unless it stops.
    async fn stop(&mut self, reload: &impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if self.hangup_stops {
                        return;
                    }
                    reload();
                }
            }
        }
    }
}

fn fail(logger: &Logger, what: &str, error: &dyn std::fmt::Display) -> ExitCode {
    error!(logger, "server.failed"; "what" => what, "error" => %error);
    ExitCode::FAILURE
}

fn check_health(settings: &Health) -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build();
    let checked = runtime.map(|runtime| runtime.block_on(health::check(settings.listen, settings.timeout)));
    match checked {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("oddswire: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("oddswire: the runtime cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

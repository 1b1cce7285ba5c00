//! The program: parses the configuration, starts the runtime, runs, and says by its exit code how that went.

use std::process::ExitCode;

use oddswire::config::{self, Cli, Command, Config, Health};
use oddswire::server::Server;
use oddswire::{health, telemetry};
use slog::{Logger, error, warn};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    match config::read() {
        Cli { command: Some(Command::Health(settings)), .. } => check_health(&settings),
        Cli { command: Some(Command::Serve(config)), .. } => serve(*config),
        Cli { command: None, config } => serve(config),
    }
}

fn serve(config: Config) -> ExitCode {
    let (logger, _flushed_at_the_end) = telemetry::logger(config.log_format, config.log_level);
    telemetry::log_panics(&logger);
    for name in config::unknown_variables() {
        warn!(logger, "config.unknown_variable"; "name" => name);
    }
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&logger, "the runtime cannot start", &error),
    };
    runtime.block_on(async {
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let (Ok(terminate), Ok(interrupt)) = signals else {
            return fail(&logger, "signals cannot be received", &"the system refused");
        };
        let listen = config.listen;
        match Server::bind(config, logger.clone()) {
            Ok(server) => {
                server.run(asked_to_stop(terminate, interrupt)).await;
                ExitCode::SUCCESS
            }
            Err(error) => fail(&logger, &format!("cannot listen on {listen}"), &error),
        }
    })
}

async fn asked_to_stop(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
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

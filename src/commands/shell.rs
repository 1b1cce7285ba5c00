//! What a shell and a manual page reader want to know of the program, made from its settings.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Failure, print, printable};
use crate::config::Cli;
use crate::config::commands::Man;

/// Prints the script that completes the program's arguments.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oddswire", &mut script);
    print(script)
}

/// Prints a manual page: of the program, or of one of its commands.
pub(super) fn man(settings: &Man) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(name) = &settings.command {
        let known: Vec<_> = command.get_subcommands().map(|known| known.get_name().to_owned()).collect();
        command = command.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::Usage(format!("'{}' is no command: the commands are {}", printable(name), known.join(", ")))
        })?;
    }
    let mut page = Vec::new();
    let version = concat!("oddswire ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command).source(version).render(&mut page).expect("writing to memory does not fail");
    print(page)
}

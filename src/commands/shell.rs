//! Prints shell completions and manual pages. Both are generated from the clap definition of the arguments.

use clap_complete::Shell;

use super::settings::Man;
use super::{Failure, print, printable};

/// Prints the script that completes the program's arguments.
pub(super) fn completions(shell: Shell, mut program: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "oddswire", &mut script);
    print(script)
}

/// Prints the manual page of the program, or of one of its commands.
pub(super) fn man(settings: &Man, mut program: clap::Command) -> Result<(), Failure> {
    program.build();
    if let Some(name) = &settings.command {
        let known: Vec<_> = program.get_subcommands().map(|known| known.get_name().to_owned()).collect();
        program = program.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::Usage(format!("unknown command '{}': expected one of {}", printable(name), known.join(", ")))
        })?;
    }
    let mut page = Vec::new();
    let version = concat!("oddswire ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(program).source(version).render(&mut page).expect("writing to memory does not fail");
    print(page)
}

//! Notices about the connection, and whether an output stream can show colours.

use std::io::IsTerminal;

/// A line about the connection, written to standard error.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) tone: Tone,
    pub(super) text: String,
}

/// How urgent a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// The connection works.
    Good,
    /// Information that needs no action.
    Aside,
    /// Something is missing or broken.
    Warning,
}

/// What an output stream can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) terminal: bool,
    pub(super) colour: bool,
}

impl Look {
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        let terminal = stream.is_terminal();
        Self { terminal, colour: terminal && may_colour() }
    }
}

/// Whether the program may use colours: not if `NO_COLOR` is set (<https://no-color.org>), and not if `TERM` is `dumb`.
fn may_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

//! What is said of the connection, and how what is written may look.

use std::io::IsTerminal;

use crate::config::commands::may_colour;

/// What is said of the connection, and how urgently.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) tone: Tone,
    pub(super) text: String,
}

/// How something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// All is well.
    Good,
    /// By the way.
    Aside,
    /// Something is missing, or not as it should be.
    Warning,
}

/// How what is written may look.
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

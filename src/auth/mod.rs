//! Who may publish, who may listen, and from which pages: tokens, claims, origins.
//!
//! A token is never shown: not in a log, not in an error, not in a debug print.

mod origins;
mod publishers;
mod signature;
mod subscribers;
mod token;

pub use self::origins::{Origin, Origins};
pub use self::publishers::{Publisher, Publishers};
pub use self::subscribers::{Access, AccessError, Verifier};
pub use self::token::Token;

//! The tokens of publishers and subscribers, and the origins of pages that may connect.
//!
//! Tokens never appear in logs, errors or `Debug` output.

mod origins;
mod publishers;
mod signature;
mod subscribers;
mod token;

pub use self::origins::Origins;
pub use self::publishers::{Publisher, Publishers};
pub use self::subscribers::{Access, AccessError, Verifier};
pub use self::token::Token;

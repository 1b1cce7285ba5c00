//! Records, summarizes and shows figures.

pub mod curve;
pub mod fit;
pub mod machine;
pub mod plot;
pub mod record;
pub mod statistics;
pub mod table;

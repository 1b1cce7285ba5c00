//! Running the server: draining, metrics, memory, attacks, panics.

mod attacks;
mod budget;
mod draining;
mod floods;
mod metrics;
mod monitoring;
mod panics;

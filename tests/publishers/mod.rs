//! What publishers send over HTTP, and how the server answers.

mod broadcast;
mod limits;
mod publishing;
mod retries;
mod tokens;

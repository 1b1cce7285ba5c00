//! `oddswire tail`: shows what is published, as it comes, through restarts and cuts of the connection.
//!
//! [`connection`] opens a connection and knows what its end means, [`follow`] keeps one and knows where it stands,
//! [`overlap`] knows what two of them bring both, [`print`] writes in a thread of its own, so that a pipe that nobody reads keeps nobody from ending the program, and
//! [`show`] makes lines for people.

mod connection;
mod follow;
mod notice;
mod overlap;
mod print;
mod show;
mod value;

use self::follow::Follower;
use self::print::Printer;
use super::dial::Dialer;
use super::{Failure, interrupted};
use crate::config::commands::Tail;

/// Follows until somebody wants it to end, nobody reads any more, or the server says that trying again is of no use.
pub(super) async fn run(settings: Tail) -> Result<(), Failure> {
    let dialer = Dialer::new(settings.url.clone()).map_err(|error| Failure::Failed(error.to_string()))?;
    let printer = Printer::start(&settings);
    let lines = printer.lines();
    let mut follower = Follower::new(dialer, settings, lines.clone());
    let ended = tokio::select! {
        refused = follower.run() => refused,
        asked = interrupted() => asked.map_err(|error| Failure::Failed(format!("signals cannot be received: {error}"))),
        () = print::reader_gone() => Ok(()),
        // Writing failed. Nothing else may come that would have to be written.
        () = lines.closed() => Ok(()),
    };
    if ended.is_ok() {
        follower.say_goodbye();
    }
    drop((follower, lines));
    printer.finish().await?;
    ended
}

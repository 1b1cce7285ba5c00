//! `oddswire tail`: shows messages as they are published, despite server restarts and broken connections.
//!
//! [`connection`] opens a connection and interprets its end, [`follow`] reconnects and keeps the position, [`overlap`]
//! drops the second copy of messages that two connections deliver, [`show`] formats messages for people, and [`print`]
//! writes in a separate thread. A pipe that is not read blocks only that thread, so the program can still end.

mod connection;
mod follow;
mod notice;
mod overlap;
mod print;
mod show;
mod value;

use self::follow::Follower;
use self::print::Printer;
use super::{Failure, interrupted};
use crate::commands::settings::Tail;
use crate::dial::Dialer;

/// Shows messages until a signal arrives, standard output is closed, or a reconnect is useless.
pub(super) async fn run(settings: Tail) -> Result<(), Failure> {
    let dialer = Dialer::new(settings.url().clone())?;
    let printer = Printer::start(&settings);
    let lines = printer.lines();
    let mut follower = Follower::new(dialer, settings, lines.clone());
    let ended = tokio::select! {
        refused = follower.run() => refused,
        asked = interrupted() => asked,
        () = print::reader_gone() => Ok(()),
        // The printer has ended, because writing failed. Without this branch, the program would notice this only at the
        // next message.
        () = lines.closed() => Ok(()),
    };
    if ended.is_ok() {
        follower.summarise();
    }
    drop((follower, lines));
    printer.finish().await?;
    ended
}

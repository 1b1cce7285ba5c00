//! Streams of the signals that the process receives.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::SignalStream;
use tokio_stream::{Stream, StreamExt as _};

/// SIGTERM and SIGINT: both ask the program to stop.
pub(crate) fn stop() -> io::Result<impl Stream<Item = ()> + Unpin> {
    Ok(stream(SignalKind::terminate())?.merge(stream(SignalKind::interrupt())?))
}

/// SIGHUP: the terminal is gone, or an operator asks the program to reload.
pub(crate) fn hangup() -> io::Result<impl Stream<Item = ()> + Unpin> {
    stream(SignalKind::hangup())
}

fn stream(kind: SignalKind) -> io::Result<SignalStream> {
    signal(kind).map(SignalStream::new)
}

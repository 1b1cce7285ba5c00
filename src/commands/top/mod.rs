//! `oddswire top`: shows figures of a server in a terminal, and keeps them up to date.
//!
//! [`exposition`] parses `/metrics`, [`sample`] requests metrics and connections from the server, [`view`] computes
//! rates from two samples, and [`screen`] draws the figures. Without a terminal, the program prints the same figures
//! once.

mod exposition;
mod sample;
mod screen;
mod units;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::stream;
use ratatui::DefaultTerminal;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::{Stream, StreamExt as _};

use self::sample::Sample;
use self::view::View;
use super::client::Client;
use super::settings::Top;
use super::{Failure, interrupted, print};
use crate::dial::Dialer;

/// Shows the figures of a server until a key or a signal ends the program. With `--once`, or without a terminal, prints
/// the figures once.
pub(super) async fn run(settings: Top) -> Result<(), Failure> {
    let mut client = Client::new(Dialer::new(settings.url().clone())?, None);
    let mut view = View::new(settings.url().to_string());
    if settings.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return tokio::select! {
            printed = print_once(&mut client, &mut view, &settings) => printed,
            asked = interrupted() => asked,
        };
    }
    watch(Terminal::take()?, client, view, &settings).await
}

/// Takes two samples, because a rate needs two, and prints the figures.
async fn print_once(client: &mut Client, view: &mut View, settings: &Top) -> Result<(), Failure> {
    for sample in 0..2 {
        if sample > 0 {
            tokio::time::sleep_until(Instant::now() + settings.interval).await;
        }
        view.take(Ok(Sample::take(client).await.map_err(Failure::Failed)?));
    }
    print(screen::print(view))
}

/// The terminal, in the mode for full-screen programs. Drop restores it, also after a panic.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn take() -> Result<Self, Failure> {
        ratatui::try_init().map(Self).map_err(unusable)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unusable(error: io::Error) -> Failure {
    Failure::Failed(format!("the terminal cannot be used: {error}"))
}

/// An event that changes the screen or ends the program.
enum Happened {
    Sampled(Result<Sample, String>),
    Typed(io::Result<Event>),
    Ended(Result<(), Failure>),
}

async fn watch(mut terminal: Terminal, client: Client, mut view: View, settings: &Top) -> Result<(), Failure> {
    let sampled = samples(client, settings.interval).map(Happened::Sampled);
    let typed = EventStream::new().map(Happened::Typed).chain(tokio_stream::once(Happened::Ended(Ok(()))));
    let ended = stream::once(interrupted()).map(Happened::Ended);
    // Merge the streams, so that keys are handled while a sample is being taken.
    let mut happenings = std::pin::pin!(sampled.merge(typed).merge(ended));
    loop {
        terminal.0.draw(|frame| screen::draw(frame.area(), frame.buffer_mut(), &view)).map_err(unusable)?;
        match happenings.next().await {
            Some(Happened::Sampled(sample)) => view.take(sample),
            Some(Happened::Typed(Ok(Event::Key(key)))) if key.kind != KeyEventKind::Release => {
                if !press(&mut view, key) {
                    return Ok(());
                }
            }
            // Other events, such as a new size of the terminal, only redraw the screen.
            Some(Happened::Typed(Ok(_))) => {}
            Some(Happened::Typed(Err(error))) => return Err(unusable(error)),
            Some(Happened::Ended(ended)) => return ended,
            None => return Ok(()),
        }
    }
}

/// Samples the server at this interval, without end. If an answer is late, later samples are late, too: they do not
/// catch up.
fn samples(client: Client, interval: Duration) -> impl Stream<Item = Result<Sample, String>> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((client, ticks), |(mut client, mut ticks)| async {
        ticks.tick().await;
        let sample = Sample::take(&mut client).await;
        Some((sample, (client, ticks)))
    })
}

/// Handles a key; returns `false` if the key ends the program.
fn press(view: &mut View, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('s') => view.sort_by_next(),
        KeyCode::Char('p' | ' ') => view.pause(),
        KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
        KeyCode::PageDown => view.scroll(10),
        KeyCode::PageUp => view.scroll(-10),
        KeyCode::Home => view.scroll(isize::MIN),
        _ => {}
    }
    true
}

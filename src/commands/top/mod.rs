//! `oddswire top`: what a server does, live in a terminal.
//!
//! [`exposition`] reads `/metrics`, [`sample`] is a server at one moment, [`view`] what two moments say together, and
//! [`screen`] draws it. Without a terminal the same screen is printed once.

mod exposition;
mod sample;
mod screen;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use self::sample::Sample;
use self::view::View;
use super::client::Client;
use super::dial::Dialer;
use super::{Failure, interrupted, print};
use crate::config::commands::Top;

/// Watches a server until somebody wants it to end; prints one look where there is no terminal.
pub(super) async fn run(settings: Top) -> Result<(), Failure> {
    let dialer = Dialer::new(settings.url.clone()).map_err(|error| Failure::Failed(error.to_string()))?;
    let mut client = Client::new(dialer, None);
    let mut view = View::new(settings.url.to_string());
    if settings.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return tokio::select! {
            printed = print_once(&mut client, &mut view, &settings) => printed,
            asked = interrupted() => asked.map_err(|error| Failure::Failed(error.to_string())),
        };
    }
    let terminal = Terminal::take()?;
    let watched = watch(terminal, client, view, &settings).await;
    watched.map_err(|error| Failure::Failed(format!("the terminal cannot be used: {error}")))
}

/// Two looks, since one says nothing of rates.
async fn print_once(client: &mut Client, view: &mut View, settings: &Top) -> Result<(), Failure> {
    for look in 0..2 {
        if look > 0 {
            tokio::time::sleep_until(Instant::now() + settings.interval).await;
        }
        view.take(Ok(Sample::take(client).await.map_err(Failure::Failed)?));
    }
    print(screen::print(view))
}

/// The terminal, which is given back as it was, after a panic too.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn take() -> Result<Self, Failure> {
        let terminal = ratatui::try_init();
        terminal.map(Self).map_err(|error| Failure::Failed(format!("the terminal cannot be used: {error}")))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn watch(mut terminal: Terminal, client: Client, mut view: View, settings: &Top) -> io::Result<()> {
    let mut keys = EventStream::new();
    let mut ended = std::pin::pin!(interrupted());
    let (mut samples, _until_the_end) = samples(client, settings.interval);
    loop {
        terminal.0.draw(|frame| screen::draw(frame.area(), frame.buffer_mut(), &view))?;
        tokio::select! {
            asked = &mut ended => return asked,
            Some(sample) = samples.recv() => view.take(sample),
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if !press(&mut view, key) {
                        return Ok(());
                    }
                }
                // Whatever else happens, such as another size: it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}

/// Looks at the server again and again, beside the keys, which are answered while it takes its time.
fn samples(mut client: Client, interval: Duration) -> (Receiver<Result<Sample, String>>, JoinSet<()>) {
    let (taken, samples) = mpsc::channel(1);
    let mut sampling = JoinSet::new();
    sampling.spawn(async move {
        let mut looks = tokio::time::interval(interval);
        // A server that answers late is not asked more often afterwards.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if taken.send(Sample::take(&mut client).await).await.is_err() {
                return;
            }
        }
    });
    (samples, sampling)
}

/// What a key does; `false` where it ends the program.
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

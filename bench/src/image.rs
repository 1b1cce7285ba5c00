//! The measurement of a crowd that comes at once and wants the whole state, as after a restart of the proxy.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::deadline::Deadline;
use crate::measurement::{Round, Setup};
use crate::publisher;
use crate::record::Figures;
use crate::server::Server;
use crate::statistics::to_f64;
use crate::swarm::{Afterwards, Plan, Swarm};
use crate::tally::Tally;

/// How long to wait for events before looking at how far the clients are.
const TURN: Duration = Duration::from_millis(20);

/// What a client gets beside the state: `connection_ack`, `catch_up` and `caught_up`.
const CONTROL_MESSAGES: f64 = 3.0;

/// Measures one server.
pub fn measure(
    clients: u32,
    state: &[(String, String)],
    setup: &Setup,
    round: &Round,
    server: &Server,
) -> Result<Figures> {
    publisher::fill(server.address(), server.dialect, state).context("could not publish the state")?;
    let idle = server.resident()?;
    let mut tally = Tally::new(setup.clock)?;
    let mut swarm = Swarm::new(round.everything(server, "snapshot"), clients)?;
    let plan = Plan { total: clients, concurrent: clients, afterwards: Afterwards::Keep };
    let progress = round.progress(clients)?;
    let before = server.cpu()?;
    let start = Instant::now();
    swarm.complete(&plan, setup.limit, &progress, &mut tally)?;
    let connected = start.elapsed();
    let deadline = Deadline::after(setup.limit, "waiting for all clients to be caught up");
    while tally.caught_up < u64::from(clients) {
        swarm.turn(deadline.remaining()?.min(TURN), &mut tally)?;
        progress.set_position(tally.caught_up);
    }
    let caught_up = start.elapsed();
    let cpu = server.cpu()? - before;
    progress.finish_and_clear();
    let expected = to_f64(u64::from(clients) * state.len() as u64);
    let delivered = to_f64(tally.messages) - f64::from(clients) * CONTROL_MESSAGES;
    let mut figures = Figures::default();
    figures.set("expected", expected);
    figures.set("delivered", delivered);
    figures.set("lost", expected - delivered);
    figures.set("connected_s", connected.as_secs_f64());
    figures.set("caught_up_s", caught_up.as_secs_f64());
    figures.set("messages_per_s", expected / caught_up.as_secs_f64());
    figures.set("mib_per_s", to_f64(tally.bytes) / caught_up.as_secs_f64() / 1_048_576.0);
    figures.set("cpu_s", cpu.total() / 1e6);
    figures.set("cpu_user_us_per_message", cpu.user / expected);
    figures.set("cpu_system_us_per_message", cpu.system / expected);
    figures.set("bytes_per_client", to_f64(tally.bytes) / f64::from(clients));
    figures.set("rss_idle_kib", to_f64(idle.now));
    figures.set("rss_peak_kib", to_f64(server.resident()?.peak));
    Ok(figures)
}

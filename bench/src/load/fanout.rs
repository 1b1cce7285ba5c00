//! Publishes messages to many subscribers, and measures the deliveries.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::ProgressBar;

use crate::deadline::LIMIT;
use crate::figures::record::Figures;
use crate::figures::statistics::to_f64;
use crate::load::measurement::Measurement;
use crate::load::message::Clock;
use crate::load::publisher::{Publisher, Share};
use crate::load::schedule::{Pace, Schedule, Source};
use crate::load::swarm::{Afterwards, CONCURRENT, Plan, Swarm, Target};
use crate::load::tally::Tally;
use crate::server::Server;
use crate::server::dialect::{Dialect, subscribe_path};
use crate::server::process::{self, Cpu};

/// A phase ends when all its messages are published and subscribers have received nothing for this time.
const QUIET: Duration = Duration::from_secs(2);

/// The time that the main thread waits for events before it checks whether the publishers have finished.
const TURN: Duration = Duration::from_millis(20);

/// The time to warm up the server. A server that sends no greeting registers its subscribers in this time.
const WARM_UP: Duration = Duration::from_secs(1);

const NANOS: f64 = 1e9;

/// A load: messages that go to many subscribers.
#[derive(Clone, Copy)]
pub struct Fanout {
    /// The number of subscribers that read their messages.
    pub readers: u32,
    /// The number of subscribers that read nothing after the handshake.
    pub stalled: u32,
    pub interest: Interest,
    pub source: Source,
    pub lasts: Duration,
    /// The number of connections that publish.
    pub publishers: u32,
}

/// The subscriptions of the subscribers.
#[derive(Clone, Copy)]
pub enum Interest {
    All,
    /// Each subscriber subscribes to one of this number of events.
    Events(u64),
}

/// The processor time of this program, and of all processes except this program and the server, in microseconds.
struct Load {
    own: f64,
    others: f64,
}

/// The results of one phase.
struct Phase {
    tally: Tally,
    /// The number of published messages.
    published: u64,
    cpu: Cpu,
    load: Load,
    /// The time from the start to the last received message, or without subscribers to the last response.
    seconds: f64,
    expected: u64,
}

impl Fanout {
    /// A load of one publisher, and of `readers` subscribers that get every message.
    pub fn to_all(readers: u32, source: Source, lasts: Duration) -> Self {
        Self { readers, stalled: 0, interest: Interest::All, source, lasts, publishers: 1 }
    }

    /// Measures one server under this load.
    pub fn measure(&self, measurement: &Measurement) -> Result<Figures> {
        let server = measurement.server;
        let total = self.readers.checked_add(self.stalled).context("there are too many subscribers")?;
        let progress = measurement.progress(total)?;
        let mut swarm = Swarm::new(self.target(server), total)?;
        let mut ignored = Tally::new(measurement.clock)?;
        let kernel = process::kernel_kib()?;
        let plan = Plan { total, concurrent: CONCURRENT.min(total), afterwards: Afterwards::Keep };
        swarm.complete(&plan, &progress, &mut ignored)?;
        swarm.hold(WARM_UP / 2, &mut ignored)?;
        let idle = server.resident()?;
        let kernel = process::kernel_kib()?.saturating_sub(kernel);
        let warm_up = Source { keys: 1, bytes: 200, pace: Pace::Steady(20.0), batch: 1 };
        let mut driver = Driver { swarm: &mut swarm, server, clock: measurement.clock, fanout: self };
        driver.phase(&Schedule::new(warm_up, WARM_UP), &progress)?;

        let phase = driver.phase(&Schedule::new(self.source, self.lasts), &progress)?;
        progress.finish_and_clear();
        let resident = server.resident()?;
        let mut figures = figures(self, &phase);
        figures.set("connections", f64::from(total));
        figures.set("kernel_kib", to_f64(kernel));
        figures.set("rss_idle_kib", to_f64(idle.now));
        figures.set("rss_peak_kib", to_f64(resident.peak));
        if self.stalled > 0 {
            add_slow(&mut figures, &mut swarm, server, measurement.clock)?;
        }
        Ok(figures)
    }

    fn target(&self, server: &Server) -> Target {
        let interest = self.interest;
        let path = move |slot: usize| match interest {
            Interest::All => subscribe_path(None),
            Interest::Events(events) => subscribe_path(Some(slot as u64 % events)),
        };
        Target { path: Box::new(path), stalled_from: self.readers as usize, ..Target::everything(server) }
    }

    /// The number of readers that get each message. Each event has the same number of readers.
    fn audience(&self) -> u64 {
        match self.interest {
            Interest::All => u64::from(self.readers),
            Interest::Events(events) => u64::from(self.readers) / events,
        }
    }
}

/// Publishes messages and receives deliveries at the same time.
struct Driver<'a> {
    swarm: &'a mut Swarm,
    server: &'a Server,
    clock: Clock,
    fanout: &'a Fanout,
}

impl Driver<'_> {
    fn phase(&mut self, schedule: &Schedule, progress: &ProgressBar) -> Result<Phase> {
        let nodes = self.server.addresses().iter().cycle().take(self.fanout.publishers as usize);
        let connect = |node: &SocketAddr| Publisher::connect(*node, self.server.dialect);
        let mut publishers = nodes.map(connect).collect::<Result<Vec<_>>>()?;
        let mut tally = Tally::new(self.clock)?;
        let before = [self.server.cpu()?, own_cpu()?];
        let machine = process::machine()?;
        let start = Instant::now();
        let of = publishers.len();
        let clock = self.clock;
        let published = thread::scope(|scope| {
            let mut running = Vec::new();
            let mut stops = Vec::new();
            for (first, publisher) in publishers.iter_mut().enumerate() {
                let (stop, stopped) = channel();
                stops.push(stop);
                let share = Share { first, of };
                running.push(scope.spawn(move || publisher.run(schedule, share, start, clock, &stopped)));
            }
            let finished = || running.iter().all(thread::ScopedJoinHandle::is_finished);
            let result = self.receive(schedule, &finished, start, &mut tally, progress);
            // Closing the channels stops the publishers that still wait.
            drop(stops);
            let published = running.into_iter().try_fold(0, |sum, thread| {
                let published = thread.join().map_err(|_| anyhow!("a publisher panicked"))?;
                Ok::<u64, anyhow::Error>(sum + published?)
            });
            result.and(published)
        })?;
        let ended = self.clock.now();
        let expected = published * self.fanout.audience();
        self.drain(expected, &mut tally)?;
        let (cpu, own) = (self.server.cpu()? - before[0], own_cpu()? - before[1]);
        let others = process::machine()? - machine - cpu.total() - own.total();
        let load = Load { own: own.total(), others };
        let last = if expected > 0 { tally.last } else { ended };
        let seconds = to_f64(last.saturating_sub(self.clock.at(start))) / NANOS;
        Ok(Phase { tally, published, cpu, load, seconds, expected })
    }

    /// Receives messages until the publishers have finished.
    fn receive(
        &mut self,
        schedule: &Schedule,
        finished: &dyn Fn() -> bool,
        start: Instant,
        tally: &mut Tally,
        progress: &ProgressBar,
    ) -> Result<()> {
        let lasts = schedule.lasts();
        while !finished() {
            ensure!(start.elapsed() < lasts + LIMIT, "the publishes took {} s too long", LIMIT.as_secs());
            self.swarm.turn(TURN, tally)?;
            let share = start.elapsed().as_secs_f64() / lasts.as_secs_f64();
            let length = progress.length().unwrap_or_default();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and the length"
            )]
            progress.set_position((share.min(1.0) * to_f64(length)) as u64);
        }
        Ok(())
    }

    /// Receives until every expected message has arrived or the server has reported it as skipped. Ends earlier if
    /// nothing arrives for the time `QUIET`.
    fn drain(&mut self, expected: u64, tally: &mut Tally) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut heard = Instant::now();
        let mut before = tally.bytes;
        while tally.delivered + tally.skipped < expected && heard.elapsed() < QUIET {
            ensure!(Instant::now() < deadline, "the deliveries took {} s too long", LIMIT.as_secs());
            self.swarm.turn(TURN, tally)?;
            if tally.bytes != before {
                before = tally.bytes;
                heard = Instant::now();
            }
        }
        Ok(())
    }
}

fn own_cpu() -> Result<Cpu> {
    process::cpu(&[std::process::id()])
}

fn figures(fanout: &Fanout, phase: &Phase) -> Figures {
    let Phase { tally, published, cpu, load, seconds, expected } = phase;
    let mut figures = Figures::default();
    figures.set("published_per_s", to_f64(*published) / seconds);
    figures.set("cpu_us_per_publish", cpu.total() / to_f64(*published));
    figures.set("cpu_share", cpu.total() / seconds / 1e6);
    figures.set("own_cpu_share", load.own / seconds / 1e6);
    figures.set("other_cpu_share", load.others.max(0.0) / seconds / 1e6);
    if fanout.readers == 0 {
        return figures;
    }
    figures.set("expected", to_f64(*expected));
    figures.set("delivered", to_f64(tally.delivered));
    figures.set("skipped", to_f64(tally.skipped));
    figures.set("lost", to_f64(expected.saturating_sub(tally.delivered + tally.skipped)));
    figures.set("deliveries_per_s", to_f64(tally.delivered) / seconds);
    let delivered = to_f64(tally.delivered.max(1));
    figures.set("cpu_us_per_delivery", cpu.total() / delivered);
    figures.set("cpu_user_us_per_delivery", cpu.user / delivered);
    figures.set("cpu_system_us_per_delivery", cpu.system / delivered);
    figures.set("bytes_per_delivery", to_f64(tally.bytes) / delivered);
    for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999), ("max_us", 1.0)] {
        figures.set(name, tally.latency_us(quantile));
    }
    figures
}

/// Lets the stalled clients read, and counts their catch-ups. Fails if oddswire's log does not report each stalled
/// client as slow. The comparison with `slow-without` would then show nothing.
fn add_slow(figures: &mut Figures, swarm: &mut Swarm, server: &Server, clock: Clock) -> Result<()> {
    let mut tally = Tally::new(clock)?;
    let slow = swarm.resume_stalled()?;
    swarm.hold(QUIET, &mut tally)?;
    figures.set("slow", to_f64(slow as u64));
    figures.set("slow_told", to_f64(tally.catch_ups));
    figures.set("slow_caught_up", to_f64(tally.caught_up));
    figures.set("slow_ended", to_f64(tally.ended));
    if server.dialect == Dialect::Oddswire {
        let logged = server.log_lines("\"ws.slow\"");
        figures.set("slow_logged", to_f64(logged as u64));
        ensure!(logged >= slow, "the log has {logged} slow connections: expected {slow}; publish for longer");
    }
    Ok(())
}

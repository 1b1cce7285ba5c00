//! The measurement of deliveries: messages are published, subscribers receive them.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use indicatif::ProgressBar;

use crate::case::{Fanout, Interest};
use crate::dialect::{Dialect, subscribe_path};
use crate::measurement::{Round, Setup};
use crate::message::Clock;
use crate::process::{self, Cpu};
use crate::publisher::{Published, Publisher, Share};
use crate::record::Figures;
use crate::schedule::{Pace, Schedule, Source};
use crate::server::Server;
use crate::statistics::to_f64;
use crate::swarm::{Afterwards, CONCURRENT, Plan, Swarm, Target};
use crate::tally::Tally;

/// A phase is over when all its messages were published and nothing has come for this long.
const QUIET: Duration = Duration::from_secs(2);

/// How long the main thread waits for events before it looks at the publishers.
const TURN: Duration = Duration::from_millis(20);

/// Lets a server that does not greet register its subscribers, and everything warm up.
const WARM_UP: Duration = Duration::from_secs(1);

const NANOS: f64 = 1e9;

/// The processor time of this program and of everything else but the server.
struct Load {
    own: f64,
    others: f64,
}

/// What one phase of publishing brought.
struct Phase {
    tally: Tally,
    published: Published,
    cpu: Cpu,
    load: Load,
    /// From the start to the last message received, or to the last answer where nobody listens.
    seconds: f64,
    expected: u64,
}

/// Measures one server in one case.
pub fn measure(fanout: &Fanout, setup: &Setup, round: &Round, server: &Server) -> Result<Figures> {
    let progress = round.progress(fanout.readers + fanout.deaf)?;
    let mut swarm = Swarm::new(target(fanout, round, server), fanout.readers + fanout.deaf)?;
    let mut ignored = Tally::new(setup.clock)?;
    let total = fanout.readers + fanout.deaf;
    let kernel = process::kernel_kib()?;
    let plan = Plan { total, concurrent: CONCURRENT.min(total), afterwards: Afterwards::Keep };
    swarm.complete(&plan, setup.limit, &progress, &mut ignored)?;
    swarm.hold(WARM_UP / 2, &mut ignored)?;
    let idle = server.resident()?;
    let kernel = process::kernel_kib()?.saturating_sub(kernel);
    let warm_up = Source::Synthetic { keys: 1, bytes: 200, pace: Pace::Steady(20.0), batch: 1 };
    let warm_up = Schedule::new(warm_up, WARM_UP, server.dialect);
    let mut driver = Driver { swarm: &mut swarm, server, clock: setup.clock, fanout, limit: setup.limit };
    driver.phase(&warm_up, &progress)?;

    let schedule = Schedule::new(fanout.source.clone(), fanout.lasts, server.dialect);
    let phase = driver.phase(&schedule, &progress)?;
    progress.finish_and_clear();
    let resident = server.resident()?;
    let mut figures = figures(fanout, &phase);
    figures.set("connections", f64::from(total));
    figures.set("kernel_kib", to_f64(kernel));
    figures.set("rss_idle_kib", to_f64(idle.now));
    figures.set("rss_peak_kib", to_f64(resident.peak));
    if fanout.deaf > 0 {
        add_slow(&mut figures, &mut swarm, server, setup.clock)?;
    }
    Ok(figures)
}

fn target(fanout: &Fanout, round: &Round, server: &Server) -> Target {
    let (transport, interest) = (round.case.transport, fanout.interest);
    let path = move |slot: usize| match interest {
        Interest::All => subscribe_path(transport, None, "now"),
        Interest::Events(events) => subscribe_path(transport, Some(slot as u64 % events), "now"),
    };
    Target {
        addresses: server.addresses().to_vec(),
        transport,
        greets: server.dialect.greets(),
        path: Box::new(path),
        deaf_from: fanout.readers as usize,
    }
}

/// Publishes and receives at the same time.
struct Driver<'a> {
    swarm: &'a mut Swarm,
    server: &'a Server,
    clock: Clock,
    fanout: &'a Fanout,
    limit: Duration,
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
            // Publishers that still wait end with their channel.
            drop(stops);
            let published = running.into_iter().try_fold(Published::default(), |sum, thread| {
                let published = thread.join().map_err(|_| anyhow!("a publisher panicked"))?;
                Ok::<_, anyhow::Error>(sum.add(published?))
            });
            result.and(published)
        })?;
        let ended = self.clock.now();
        let expected = published.messages * audience(self.fanout);
        self.drain(expected, &mut tally)?;
        let (cpu, own) = (self.server.cpu()? - before[0], own_cpu()? - before[1]);
        let others = process::machine()? - machine - cpu.total() - own.total();
        let load = Load { own: own.total(), others };
        let last = if expected > 0 { tally.last } else { ended };
        let seconds = to_f64(last.saturating_sub(self.clock.at(start))) / NANOS;
        Ok(Phase { tally, published, cpu, load, seconds, expected })
    }

    /// Receives until the publishers have finished.
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
            ensure!(start.elapsed() < lasts + self.limit, "the publishes took {} s too long", self.limit.as_secs());
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

    /// Receives until everything expected is accounted for, or nothing comes any more.
    fn drain(&mut self, expected: u64, tally: &mut Tally) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        let mut heard = Instant::now();
        let mut before = tally.bytes;
        while tally.delivered + tally.skipped < expected && heard.elapsed() < QUIET {
            ensure!(Instant::now() < deadline, "the deliveries took {} s too long", self.limit.as_secs());
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

/// How many readers each message has.
fn audience(fanout: &Fanout) -> u64 {
    match fanout.interest {
        Interest::All => u64::from(fanout.readers),
        Interest::Events(events) => u64::from(fanout.readers) / events,
    }
}

fn figures(fanout: &Fanout, phase: &Phase) -> Figures {
    let Phase { tally, published, cpu, load, seconds, expected } = phase;
    let mut figures = Figures::default();
    figures.set("published", to_f64(published.messages));
    figures.set("published_per_s", to_f64(published.messages) / seconds);
    figures.set("publish_late_max_us", published.late.as_secs_f64() * 1e6);
    figures.set("cpu_us_per_publish", cpu.total() / to_f64(published.messages));
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

/// Lets the slow ones read, to see what they are told. That they really were left behind is what makes the comparison
/// with the same load without them mean anything.
fn add_slow(figures: &mut Figures, swarm: &mut Swarm, server: &Server, clock: Clock) -> Result<()> {
    let mut tally = Tally::new(clock)?;
    let slow = swarm.open_ears()?;
    swarm.hold(QUIET, &mut tally)?;
    figures.set("slow", to_f64(slow as u64));
    figures.set("slow_told", to_f64(tally.catch_ups));
    figures.set("slow_caught_up", to_f64(tally.caught_up));
    figures.set("slow_skipped", to_f64(tally.skipped));
    figures.set("slow_ended", to_f64(tally.ended));
    if server.dialect == Dialect::Oddswire {
        let logged = server.log_lines("\"ws.slow\"");
        figures.set("slow_logged", to_f64(logged as u64));
        ensure!(logged >= slow, "only {logged} of {slow} slow connections were left behind: publish for longer");
    }
    Ok(())
}

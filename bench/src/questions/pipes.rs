//! How much do sessions cost without sockets?
//!
//! A session here has the registration with the manager, the outbox, and a task that takes messages from the outbox.
//! Instead of a socket, this task writes to a pipe in memory, and another task reads from the pipe. The pipes and the
//! reading tasks exist before the first measurement, so no figure contains their memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use oddswire::log::Log;
use oddswire::manager::{Connect, Connection, ConnectionManager, ManagerLimits};
use oddswire::message::{Draft, Payload};
use oddswire::outbox::{self, Outgoing, Receiver};
use oddswire::topic::Topics;
use rustix::time::{ClockId, clock_gettime};
use serde_json::value::RawValue;
use slog::{Discard, Logger, o};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::Notify;

use crate::figures::record::Figures;
use crate::figures::statistics::to_f64;
use crate::load::message;
use crate::server::process;

/// The topic that all sessions subscribe to, and the topic of the lone client.
const TOPIC: &str = "odds_updates";
const OTHER_TOPIC: &str = "scrape_progress";

/// The capacity of a pipe in bytes, enough for a few messages of 200 bytes.
const PIPE_BYTES: usize = 2_048;

/// The approximate number of deliveries to all sessions together. It does not depend on the number of sessions.
const DELIVERIES: u32 = 2_000_000;

/// The number of messages that are published to the lone client.
const PUBLISHES: u32 = 10_000;

thread_local! {
    /// The read buffer that all readers of a thread share.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PIPE_BYTES]);
}

/// The number of bytes that all readers together have read, and the number to wait for.
#[derive(Default)]
struct Received {
    bytes: AtomicU64,
    wanted: AtomicU64,
    reached: Notify,
}

/// A point in time, by the wall clock and by the processor time of this program in nanoseconds.
struct Moment {
    wall: Instant,
    cpu: f64,
}

impl Moment {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        #[expect(clippy::cast_precision_loss, reason = "a program runs for far less than 2^53 nanoseconds")]
        let cpu = time.tv_sec as f64 * 1e9 + time.tv_nsec as f64;
        Self { wall: Instant::now(), cpu }
    }

    /// The processor time since this moment, in nanoseconds.
    fn cpu_since(&self) -> f64 {
        Self::now().cpu - self.cpu
    }
}

/// Measures `sessions` sessions. Call it only once in a process: later calls would reuse freed memory.
pub fn measure(sessions: u32) -> Result<Figures> {
    tokio::runtime::Builder::new_multi_thread().build()?.block_on(async { Crowd::new(sessions)?.figures().await })
}

/// All sessions, and the two clients `witness` and `lone`.
struct Crowd {
    sessions: u32,
    manager: ConnectionManager,
    received: Arc<Received>,
    /// The write ends of the pipes, until `connect` gives one to each session.
    pipes: Vec<DuplexStream>,
    connections: Vec<Connection>,
    /// A client whose outbox tells how many bytes each session gets.
    witness: (Connection, Receiver),
    /// The only client of `OTHER_TOPIC`.
    lone: (Connection, Receiver),
}

impl Crowd {
    fn new(sessions: u32) -> Result<Self> {
        let topics: Topics = format!("{TOPIC},{OTHER_TOPIC}").parse()?;
        let log = Log::new(1, &topics, oddswire::log::LogLimits::default());
        let manager = ConnectionManager::new(topics, log, ManagerLimits::default(), Logger::root(Discard, o!()));
        let witness = manager.connect(Connect::to(vec![TOPIC.parse()?]));
        let lone = manager.connect(Connect::to(vec![OTHER_TOPIC.parse()?]));
        let received = Arc::new(Received::default());
        let runtime = tokio::runtime::Handle::current();
        let pipe = |_| {
            let (write, read) = tokio::io::duplex(PIPE_BYTES);
            runtime.spawn(read_all(read, Arc::clone(&received)));
            write
        };
        let pipes = (0..sessions).map(pipe).collect();
        let connections = Vec::with_capacity(usize::try_from(sessions)?);
        Ok(Self { sessions, manager, received, pipes, connections, witness, lone })
    }

    async fn figures(mut self) -> Result<Figures> {
        let count = f64::from(self.sessions);
        let mut figures = Figures::default();
        figures.set("connections", count);

        let (resident, before) = (resident_kib()?, Moment::now());
        self.connect().await?;
        figures.set("connect_ns", before.cpu_since() / count);
        figures.set("bytes_per_connection", (resident_kib()? - resident) * 1024.0 / count);
        figures.set("rss_idle_kib", resident_kib()? - resident);

        let messages = (DELIVERIES / self.sessions).clamp(10, 200);
        let before = Moment::now();
        for number in 0..messages {
            self.deliver(number).await?;
        }
        let deliveries = count * f64::from(messages);
        figures.set("delivery_ns", before.cpu_since() / deliveries);
        figures.set("deliveries_per_s", deliveries / before.wall.elapsed().as_secs_f64());

        let before = Moment::now();
        for number in 0..PUBLISHES {
            self.publish(OTHER_TOPIC, number)?;
            take(&mut self.lone.1);
        }
        figures.set("publish_ns", before.cpu_since() / f64::from(PUBLISHES));

        let before = Moment::now();
        self.disconnect().await;
        figures.set("disconnect_ns", before.cpu_since() / count);
        Ok(figures)
    }

    /// Creates a session for each pipe, and waits until all sessions have got their `connection_ack`.
    async fn connect(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Handle::current();
        for pipe in std::mem::take(&mut self.pipes) {
            let (connection, receiver) = self.manager.connect(Connect::to(vec![TOPIC.parse()?]));
            let (manager, id) = (self.manager.clone(), connection.id());
            runtime.spawn(write_all(receiver, move || manager.refill(id), pipe));
            self.connections.push(connection);
        }
        self.all_have_received(0).await;
        Ok(())
    }

    /// Publishes a message to all sessions, and waits until every reader has read the message.
    async fn deliver(&mut self, number: u32) -> Result<()> {
        let before = self.received.bytes.load(Ordering::SeqCst);
        self.publish(TOPIC, number)?;
        self.all_have_received(before).await;
        Ok(())
    }

    /// Waits until every reader has read as many bytes as the witness has got since the last call.
    async fn all_have_received(&mut self, before: u64) {
        let each = take(&mut self.witness.1);
        self.received.all(before + each * u64::from(self.sessions)).await;
    }

    fn publish(&self, topic: &str, number: u32) -> Result<()> {
        let data = RawValue::from_string(message::data(u64::from(number), 200))?;
        let payload = Payload { kind: Some("odds_update".to_owned()), ..Payload::new(data) };
        self.manager.publish(&[Draft { topic: topic.parse()?, payload }])?;
        Ok(())
    }

    /// Disconnects all sessions, and waits until the tasks of the writers and readers have ended.
    async fn disconnect(&mut self) {
        self.connections.clear();
        // Each reader's task holds a reference to `received` until the task ends.
        while Arc::strong_count(&self.received) > 1 {
            tokio::task::yield_now().await;
        }
    }
}

impl Received {
    fn add(&self, count: usize) {
        let before = self.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if before + count as u64 >= self.wanted.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }

    async fn all(&self, wanted: u64) {
        self.wanted.store(wanted, Ordering::SeqCst);
        while self.bytes.load(Ordering::SeqCst) < wanted {
            self.reached.notified().await;
        }
    }
}

/// Empties an outbox, and returns the number of bytes of all its WebSocket frames.
fn take(receiver: &mut Receiver) -> u64 {
    let mut bytes = 0;
    while let Some(item) = receiver.try_recv() {
        receiver.settle(outbox::size(&item));
        bytes += item.frames().map_or(0, |frames| frames.websocket().len() as u64);
    }
    bytes
}

/// The writer of a session. Takes all queued messages at once from the outbox, as the server's writer does.
async fn write_all(mut receiver: Receiver, refill: impl Fn(), mut pipe: DuplexStream) {
    while receiver.ready().await {
        receiver.take();
        while let Some(item) = receiver.pop() {
            if matches!(item, Outgoing::Refill) {
                refill();
            }
            if let Some(frames) = item.frames()
                && pipe.write_all(frames.websocket()).await.is_err()
            {
                return;
            }
            receiver.settle(outbox::size(&item));
        }
    }
}

/// The client of a session. Reads from the pipe until the writer closes it.
async fn read_all(mut pipe: DuplexStream, received: Arc<Received>) {
    loop {
        let count = poll_fn(|context| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = Pin::new(&mut pipe).poll_read(context, &mut buffer);
                read.map_ok(|()| buffer.filled().len())
            })
        });
        match count.await {
            Ok(0) | Err(_) => return,
            Ok(count) => received.add(count),
        }
    }
}

fn resident_kib() -> Result<f64> {
    Ok(to_f64(process::resident(&[std::process::id()])?.now))
}

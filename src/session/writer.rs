//! The writer: moves items from the outbox to the socket with as few system calls as possible.
//!
//! The manager wakes writers in waves ([`ConnectionManager::run_waves`]). A writer that finds more items after a write
//! yields once to the scheduler. So items that other tasks queue in the meantime go out with the same system call.
//! Measured with 200 subscribers and 2,000 messages/s, this raised deliveries from 232k/s to 389k/s and more.
//!
//! The writer gathers small frames in a scratch buffer that all connections of a thread share. It writes a large frame
//! without a copy.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, timeout};

use crate::close::Close;
use crate::connection;
use crate::manager::{ConnectionId, ConnectionManager};
use crate::message::{Frames, Timestamp};
use crate::metrics::Transport;
use crate::outbox::{self, Outgoing, Receiver};

/// The approximate number of bytes that a writer gathers for one system call.
const SCRATCH_BYTES: usize = 64 << 10;
/// The writer does not copy frames of this size (in bytes) or more.
const LARGE_FRAME: usize = 16 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Writer {
    socket: OwnedWriteHalf,
    receiver: Receiver,
    /// The manager and the connection's id, to request the next messages of a catch-up.
    refills: (ConnectionManager, ConnectionId),
    /// The length of the conflation window, and its current end.
    window: Option<(Duration, Instant)>,
    write_timeout: Duration,
    written: Written,
}

/// What a writer has sent, and why it ended.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) end: WriterEnd,
    /// The number of published messages.
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// Why a writer ended.
#[derive(Debug, Default)]
pub(super) enum WriterEnd {
    /// The session is over, and the writer has written all items.
    #[default]
    Drained,
    /// The writer wrote a close frame with this reason.
    Closed(Close),
    /// The peer took no byte within the write timeout.
    Stalled,
    /// The socket failed with this error.
    Failed(io::ErrorKind),
}

enum Woken {
    Items,
    Window,
}

/// The parts of one write that are not in the scratch buffer, and the step after the write.
#[derive(Default)]
struct Batch {
    /// An item whose frame is not copied. The socket gets this frame after the frames in the scratch buffer.
    uncopied: Option<Outgoing>,
    messages: u64,
    /// The timestamp of the first live message in the batch.
    oldest: Option<Timestamp>,
    bytes: usize,
    /// Bytes that the outbox counts as queued until the whole batch is written.
    account: usize,
    then: Then,
}

#[derive(Clone, Copy, Default)]
enum Then {
    #[default]
    Continue,
    Refill,
    Close(Close),
}

/// The part of a batch that the first system call did not write.
struct Rest {
    gathered: Vec<u8>,
    uncopied: Option<Outgoing>,
    /// The number of bytes already written: first of `gathered`, then of `uncopied`.
    written: usize,
}

impl Writer {
    pub(super) fn new(
        socket: OwnedWriteHalf,
        receiver: Receiver,
        refills: (ConnectionManager, ConnectionId),
        conflate: Option<Duration>,
        write_timeout: Duration,
    ) -> Self {
        let window = conflate.map(|length| (length, Instant::now() + length));
        Self { socket, receiver, refills, window, write_timeout, written: Written::default() }
    }

    /// Writes until the session is over, the close frame is written, the socket fails, or the peer stalls.
    pub(super) async fn run(&mut self) {
        while let Some(woken) = self.wait().await {
            let then = match woken {
                Woken::Window => {
                    self.refills.0.end_window(self.refills.1);
                    Ok(Then::Continue)
                }
                Woken::Items => self.write().await,
            };
            match then {
                Ok(Then::Continue) => {}
                Ok(Then::Refill) => {
                    self.receiver.give_back();
                    self.refills.0.refill(self.refills.1);
                }
                Ok(Then::Close(close)) => return self.written.end = WriterEnd::Closed(close),
                Err(end) => return self.written.end = end,
            }
        }
    }

    /// Returns what the writer has sent. Drops the outbox's receiver and the socket's write half.
    pub(super) fn into_written(self) -> Written {
        self.written
    }

    async fn wait(&mut self) -> Option<Woken> {
        let Some((length, end)) = &mut self.window else {
            return self.receiver.ready().await.then_some(Woken::Items);
        };
        tokio::select! {
            biased;
            more = self.receiver.ready() => more.then_some(Woken::Items),
            () = tokio::time::sleep_until(*end) => {
                *end = Instant::now() + *length;
                Some(Woken::Window)
            }
        }
    }

    /// Writes a batch of items from the outbox.
    async fn write(&mut self) -> Result<Then, WriterEnd> {
        let (batch, rest) = SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            let mut batch = gather(&mut self.receiver, scratch);
            let written = self.try_write(&[IoSlice::new(scratch), IoSlice::new(websocket(batch.uncopied.as_ref()))])?;
            let rest = (written < batch.bytes).then(|| Rest::new(scratch, batch.uncopied.take(), written));
            Ok((batch, rest))
        })?;
        if let Some(rest) = rest {
            // Box this future, because it runs only when the socket is full. Unboxed it would make every idle task
            // larger.
            Box::pin(self.write_rest(rest)).await?;
        }
        self.written.messages += batch.messages;
        self.written.bytes += batch.bytes as u64;
        let latency = batch.oldest.map(Timestamp::elapsed);
        self.refills.0.metrics().delivered(Transport::websocket, batch.messages, batch.bytes as u64, latency);
        self.receiver.settle(batch.account);
        Ok(batch.then)
    }

    /// Writes as many bytes as the socket takes now, and returns their number, which may be 0.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> Result<usize, WriterEnd> {
        // Usually only one of the buffers has bytes. A plain write is cheaper than a vectored write.
        let written = match slices {
            [one, rest] if rest.is_empty() => self.socket.try_write(one),
            [none, one] if none.is_empty() => self.socket.try_write(one),
            _ => self.socket.try_write_vectored(slices),
        };
        match written {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(WriterEnd::Failed(error.kind())),
        }
    }

    async fn write_rest(&self, mut rest: Rest) -> Result<(), WriterEnd> {
        while rest.remains() {
            rest.written += match timeout(self.write_timeout, self.socket.writable()).await {
                Ok(Ok(())) => self.try_write(&rest.slices())?,
                Ok(Err(error)) => return Err(WriterEnd::Failed(error.kind())),
                Err(_) => self.write_late(&rest.slices())?,
            };
        }
        Ok(())
    }

    /// Tries to write once more after the write timeout. If the socket takes no byte, the peer has stalled.
    fn write_late(&self, slices: &[IoSlice<'_>]) -> Result<usize, WriterEnd> {
        match connection::write_unannounced(self.socket.as_ref(), slices) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A reset frees the data that the kernel holds for the stalled peer. The call fails only if the socket
                // is closed.
                let _ = self.socket.as_ref().set_zero_linger();
                Err(WriterEnd::Stalled)
            }
            Err(error) => Err(WriterEnd::Failed(error.kind())),
        }
    }
}

/// Takes items from the outbox until they fill one system call, or until an item requires another step.
fn gather(receiver: &mut Receiver, scratch: &mut Vec<u8>) -> Batch {
    let mut batch = Batch::default();
    receiver.take();
    let mut next = receiver.pop();
    while let Some(item) = next {
        match item {
            Outgoing::Refill => {
                batch.then = Then::Refill;
                break;
            }
            Outgoing::Close(close) => {
                scratch.extend_from_slice(Frames::close(close).websocket());
                batch.then = Then::Close(close);
                break;
            }
            Outgoing::Message(ref message) => {
                batch.messages += 1;
                batch.oldest.get_or_insert(message.timestamp());
            }
            Outgoing::Missed(_) => batch.messages += 1,
            Outgoing::Control(_) => {}
        }
        batch.account += outbox::size(&item);
        let frame = websocket(Some(&item));
        if frame.len() >= LARGE_FRAME {
            batch.uncopied = Some(item);
            break;
        }
        // Stop when the scratch buffer is full. If there is only one frame, write it without a copy.
        let lone = scratch.is_empty();
        let full = scratch.len() + frame.len() >= SCRATCH_BYTES;
        next = if full { None } else { receiver.pop() };
        if lone && next.is_none() {
            batch.uncopied = Some(item);
            break;
        }
        scratch.extend_from_slice(frame);
    }
    batch.bytes = scratch.len() + websocket(batch.uncopied.as_ref()).len();
    batch
}

fn websocket(item: Option<&Outgoing>) -> &[u8] {
    item.and_then(Outgoing::frames).map_or(&[], Frames::websocket)
}

impl Rest {
    fn new(scratch: &[u8], uncopied: Option<Outgoing>, written: usize) -> Self {
        let kept = written.min(scratch.len());
        Self { gathered: scratch[kept..].to_vec(), uncopied, written: written - kept }
    }

    fn slices(&self) -> [IoSlice<'_>; 2] {
        let of_gathered = self.written.min(self.gathered.len());
        let gathered = &self.gathered[of_gathered..];
        [IoSlice::new(gathered), IoSlice::new(&websocket(self.uncopied.as_ref())[self.written - of_gathered..])]
    }

    fn remains(&self) -> bool {
        self.written < self.gathered.len() + websocket(self.uncopied.as_ref()).len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use slog::{Discard, Logger, o};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::Builder;
    use tokio_util::task::TaskTracker;

    use super::super::{Session, SessionLimits, Wanted};
    use super::SCRATCH;
    use crate::admission::Admission;
    use crate::auth::Access;
    use crate::log::{self, Log};
    use crate::manager::{self, Connect, ConnectionManager};
    use crate::message::Payload;

    const LIMITS: SessionLimits = SessionLimits {
        client_message_bytes: 1 << 10,
        client_messages_per_second: 1,
        ping_interval: std::time::Duration::from_hours(1),
        idle_timeout: std::time::Duration::from_hours(2),
        write_timeout: std::time::Duration::from_hours(1),
    };

    /// Runs sessions without a server.
    struct Stage {
        manager: ConnectionManager,
        admission: Admission,
        tasks: TaskTracker,
    }

    impl Stage {
        fn set(places: usize) -> Self {
            let topics = "odds_updates".parse().unwrap();
            let log = Log::new(1, &topics, log::LogLimits::default());
            let logger = Logger::root(Discard, o!());
            let manager = ConnectionManager::new(topics, log, manager::ManagerLimits::default(), logger);
            Self { manager, admission: Admission::new(places, 0), tasks: TaskTracker::new() }
        }

        /// Starts a session that subscribes to one key. The returned client has read the `connection_ack`.
        async fn connect(&self, key: &str) -> TcpStream {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (client, accepted) =
                tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
            let wanted = Wanted {
                admitted: self.admission.admit(None).unwrap(),
                access: Access::PUBLIC,
                verifier: None,
                connect: Connect::to(vec![format!("odds_updates/{key}").parse().unwrap()]),
                unknown: Vec::new(),
                unknown_parameters: Vec::new(),
            };
            let session = Session { stream: accepted.unwrap().0, early: Vec::new(), wanted };
            session.start(&self.manager, LIMITS, &self.tasks, &Logger::root(Discard, o!()));
            let mut client = client.unwrap();
            assert!(text(&mut client).await.contains("connection_ack"));
            client
        }

        fn publish(&self, key: &str) {
            let data = RawValue::from_string("1".to_owned()).unwrap();
            let topic = self.manager.topics().get("odds_updates").unwrap();
            self.manager.broadcast(Payload::keyed(key.parse().unwrap(), data), topic).unwrap();
        }
    }

    /// Reads the next frame, which must be a text frame.
    async fn text(client: &mut TcpStream) -> String {
        assert_eq!(client.read_u8().await.unwrap(), 0x81);
        let length = match client.read_u8().await.unwrap() {
            126 => client.read_u16().await.unwrap(),
            short => short.into(),
        };
        let mut payload = vec![0; length.into()];
        client.read_exact(&mut payload).await.unwrap();
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn a_panic_in_a_writer_ends_its_connection_and_no_other() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let stage = Stage::set(2);
        let [mut unlucky, mut other] =
            runtime.block_on(async { [stage.connect("unlucky").await, stage.connect("other").await] });
        // The test keeps the scratch buffer borrowed, so the writer panics when it borrows the buffer.
        SCRATCH.with_borrow_mut(|_| {
            runtime.block_on(async {
                stage.publish("unlucky");
                assert_eq!(unlucky.read_to_end(&mut Vec::new()).await.unwrap(), 0, "it ends without that message");
            });
        });
        runtime.block_on(async {
            stage.publish("other");
            assert!(text(&mut other).await.contains(r#""key":"other""#));
        });
        assert_eq!(stage.manager.active_count(), 1);
        assert!(stage.admission.admit(None).is_ok(), "its place is free again");
        let metrics = stage.manager.metrics().expose(&[]);
        for series in [
            r#"oddswire_connections{transport="websocket"} 1"#,
            r#"oddswire_disconnects_total{transport="websocket",reason="panic"} 1"#,
        ] {
            assert!(metrics.lines().any(|line| line == series), "{series}: {metrics}");
        }
        drop(other);
        runtime.block_on(async {
            stage.tasks.close();
            stage.tasks.wait().await;
        });
        assert!(stage.manager.is_empty());
    }
}

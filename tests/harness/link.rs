//! A TCP connection between two programs, through a link that a test can cut or stall.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// What the link does with the bytes that it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Pass all bytes on.
    Open,
    /// Hold all bytes back until the flow changes.
    Stalled,
    /// Pass on bytes to the target, but hold back bytes from the target.
    Unanswered,
    /// In each direction of a connection, pass on about this many bytes and hold back the rest.
    StalledBehind(usize),
    /// End all open connections, and end each new connection at once.
    Cut,
}

/// Forwards TCP connections to an address.
pub struct Link {
    pub address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    flow: watch::Sender<Flow>,
    /// Notified when the link begins to hold back bytes.
    pub stalled: Arc<Notify>,
    _passing: JoinSet<()>,
}

impl Link {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, leading) = watch::channel(target);
        let (flow, flowing) = watch::channel(Flow::Open);
        let stalled = Arc::new(Notify::new());
        let tell = Arc::clone(&stalled);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((one, _)) = listener.accept().await {
                let (mut flow, tell) = (flowing.clone(), Arc::clone(&tell));
                let target = *leading.borrow();
                connections.spawn(async move {
                    tokio::select! {
                        () = pass(one, target, flow.clone(), &tell) => {}
                        _ = flow.wait_for(|flow| *flow == Flow::Cut) => {}
                    }
                });
            }
        });
        Self { address, target, flow, stalled, _passing: passing }
    }

    /// Forwards new connections to another address. Open connections are not affected.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    pub fn set(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }
}

async fn pass(one: TcpStream, target: SocketAddr, flow: watch::Receiver<Flow>, stalled: &Notify) {
    let Ok(other) = TcpStream::connect(target).await else { return };
    let ((from_one, to_one), (from_other, to_other)) = (one.into_split(), other.into_split());
    // If one side ends the connection, end the other side too.
    tokio::select! {
        () = copy(from_one, to_other, false, flow.clone(), stalled) => {}
        () = copy(from_other, to_one, true, flow, stalled) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_answer: bool,
    mut flow: watch::Receiver<Flow>,
    stalled: &Notify,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let waits = |flow: &Flow| match flow {
            Flow::Stalled => true,
            Flow::Unanswered => is_answer,
            Flow::StalledBehind(bytes) => passed >= *bytes,
            Flow::Open | Flow::Cut => false,
        };
        if waits(&flow.borrow()) {
            stalled.notify_one();
        }
        if flow.wait_for(|flow| !waits(flow)).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        passed += count;
    }
}

//! A TCP connection between two programs that a test can cut or stall.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It arrives.
    Open,
    /// It waits, and arrives once the link is open again.
    Stalled,
    /// Connections end, and new ones do at once.
    Cut,
}

/// Passes connections on to an address.
pub struct Link {
    pub address: SocketAddr,
    flow: watch::Sender<Flow>,
    _passing: JoinSet<()>,
}

impl Link {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, flowing) = watch::channel(Flow::Open);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((one, _)) = listener.accept().await {
                let mut flow = flowing.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = pass(one, target, flow.clone()) => {}
                        _ = flow.wait_for(|flow| *flow == Flow::Cut) => {}
                    }
                });
            }
        });
        Self { address, flow, _passing: passing }
    }

    pub fn set(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }
}

async fn pass(one: TcpStream, target: SocketAddr, flow: watch::Receiver<Flow>) {
    let Ok(other) = TcpStream::connect(target).await else { return };
    let ((from_one, to_one), (from_other, to_other)) = (one.into_split(), other.into_split());
    // One side's end is the end of both.
    tokio::select! {
        () = copy(from_one, to_other, flow.clone()) => {}
        () = copy(from_other, to_one, flow) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if flow.wait_for(|flow| *flow != Flow::Stalled).await.is_err() || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}

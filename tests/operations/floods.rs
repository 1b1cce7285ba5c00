//! Clients that send as fast as they can and never stop. Meanwhile the server must answer other clients.

use std::net::SocketAddr;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::harness::get::get;
use crate::harness::raw::{Raw, frame};
use crate::harness::{App, within};

const FLOODERS: usize = 8;
/// The number of requests that the server must answer during a flood.
const REQUESTS: usize = 50;

/// Sends requests and checks that the server answers them while the flooders send. No flooder may end before the last
/// answer.
async fn answers_during(app: &App, flood: JoinSet<()>) {
    let mut flood = flood;
    for number in 0..REQUESTS {
        let (_, response) = get(app.address, "/healthz", &[]).await;
        assert_eq!(response.status, 200, "request {number}");
        if let Some(ended) = flood.try_join_next() {
            panic!("a flooder ended: {ended:?}");
        }
    }
    flood.shutdown().await;
}

/// Opens one `WebSocket` after the other. Over each, sends `begin` once, and then `bytes` until the server closes the
/// connection with `code`. If more bytes are on the way than the server drops after its close frame, a reset follows the
/// close frame.
async fn flood_websockets(address: SocketAddr, begin: &[u8], bytes: &[u8], code: u16) {
    loop {
        let mut raw = Raw::websocket(address).await;
        raw.send(begin).await;
        let (mut reader, mut writer) = raw.socket.split();
        let sending = pin!(async { while writer.write_all(bytes).await.is_ok() {} });
        let mut closed = pin!(within(close_code(&mut reader)));
        tokio::select! {
            closed = &mut closed => assert_eq!(closed, code),
            () = sending => assert_eq!(closed.await, code),
        }
    }
}

/// Skips answers up to the close frame, and returns the close code.
async fn close_code(reader: &mut (impl AsyncRead + Unpin)) -> u16 {
    loop {
        let (opcode, length) = (reader.read_u8().await.expect("a close frame"), reader.read_u8().await.unwrap());
        if opcode == 0x88 {
            return reader.read_u16().await.unwrap();
        }
        reader.read_exact(&mut vec![0; length.into()]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_are_closed_and_other_clients_are_served() {
    let app = App::with(|config| config.client_messages_per_second = 20).await;
    let kinds = [
        ("empty fragments", frame(0x01, b""), frame(0x00, b""), 1008),
        ("fragments of a byte", frame(0x01, b"x"), frame(0x00, b"x"), 1008),
        ("pings", Vec::new(), frame(0x89, b""), 4429),
        ("pongs", Vec::new(), frame(0x8a, b""), 4429),
        ("fragments and pongs", frame(0x01, b""), [frame(0x00, b""), frame(0x8a, b"")].concat(), 4429),
    ];
    for (kind, begin, bytes, code) in kinds {
        let (bytes, mut flood) = (bytes.repeat(10_000), JoinSet::new());
        for _ in 0..FLOODERS {
            let (address, begin, bytes) = (app.address, begin.clone(), bytes.clone());
            flood.spawn(async move { flood_websockets(address, &begin, &bytes, code).await });
        }
        println!("{kind}");
        answers_during(&app, flood).await;
    }
    app.connections(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_pipelined_requests_do_not_block_other_clients() {
    let app = App::start().await;
    // Each of the long requests needs a read of its own.
    let long = format!("/healthz?{}", "y".repeat(15_000));
    let paths = ["/healthz", "/nothing", &long];
    for (path, reads) in paths.into_iter().flat_map(|path| [(path, true), (path, false)]) {
        let (requests, mut flood) =
            (format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(500), JoinSet::new());
        for _ in 0..FLOODERS {
            let (address, requests) = (app.address, requests.clone());
            flood.spawn(async move {
                let mut raw = Raw::connect(address).await;
                let (mut reader, mut writer) = raw.socket.split();
                let mut sink = tokio::io::sink();
                let sending = async { while writer.write_all(requests.as_bytes()).await.is_ok() {} };
                let reading = async {
                    if reads {
                        tokio::io::copy(&mut reader, &mut sink).await.expect("the server sends");
                    } else {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = sending => panic!("the server ended the connection"),
                    () = reading => panic!("the server ended the connection"),
                }
            });
        }
        println!("{path:.20}, answers read: {reads}");
        answers_during(&app, flood).await;
    }
}

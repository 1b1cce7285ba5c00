//! Clients that vanish without a FIN or a reset, like a phone that loses its network.

use std::time::Duration;

use socket2::{SockFilter, SockRef};

use crate::harness::App;
use crate::harness::get::get;
use crate::harness::raw::Raw;

/// Makes the client's kernel drop all packets from now on. It then acknowledges no data, and answers no probe.
fn vanish(client: &Raw) {
    // A filter program of one instruction (BPF_RET | BPF_K). It keeps 0 bytes of each packet.
    let keep_nothing = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(&client.socket).attach_filter(&[keep_nothing]).expect("Linux takes filters from anybody");
}

#[tokio::test]
async fn event_streams_of_vanished_clients_are_removed() {
    // The first stream gets comments that nobody acknowledges. The second gets no data, so only the probes of the
    // server's kernel can find the vanished client.
    let streams = [Duration::from_millis(200), Duration::from_hours(1)].map(async |comments| {
        let app = App::with(|config| {
            (config.write_timeout, config.sse_comment_interval) = (Duration::from_secs(1), comments);
        })
        .await;
        let (client, response) = get(app.address, "/api/sse", &[]).await;
        assert_eq!(response.status, 200);
        app.connections(1).await;
        vanish(&client);
        // The server's kernel gives up a connection after 31 to 40 seconds.
        app.connections(0).await;
        drop(client);
    });
    futures_util::future::join_all(streams).await;
}

//! Clients that vanish without a FIN or a reset, as a phone does that loses its network.

use std::time::Duration;

use socket2::{SockFilter, SockRef};

use crate::harness::App;
use crate::harness::get::get;
use crate::harness::raw::Raw;

/// The client's kernel drops whatever comes from now on. It acknowledges nothing, and answers no probe.
fn vanish(client: &Raw) {
    // A filter program of one instruction: BPF_RET | BPF_K, which keeps no byte of a packet.
    let keep_nothing = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(&client.socket).attach_filter(&[keep_nothing]).expect("Linux takes filters from anybody");
}

#[tokio::test]
async fn vanished_event_streams_give_their_places_back() {
    // One gets comments that nobody acknowledges. The other gets no data, so the kernel's probes have to find it.
    let streams = [Duration::from_millis(200), Duration::from_hours(1)].map(async |comments| {
        let app = App::with(|config| {
            (config.write_timeout, config.sse_comment_interval) = (Duration::from_secs(1), comments);
        })
        .await;
        let (client, response) = get(app.address, "/api/sse", &[]).await;
        assert_eq!(response.status, 200);
        app.connections(1).await;
        vanish(&client);
        // The kernel needs 31 to 40 seconds.
        app.connections(0).await;
        drop(client);
    });
    futures_util::future::join_all(streams).await;
}

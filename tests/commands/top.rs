//! `oddswire top`: shows the state of a server, and restores the terminal at the end.

use tokio::io::AsyncWriteExt as _;

use crate::harness::App;
use crate::harness::command::Running;

#[tokio::test]
async fn output_lists_topics_rates_and_clients() {
    let app = App::start().await;
    let _client = app.ws("topics=odds_updates/8301").await;
    let _other = app.sse("topics=scrape_progress").await;
    app.odds("8301/1x2/betpawa", 1).await;
    let url = format!("http://{}", app.admin);
    for more in [&["--once"][..], &[]] {
        let ended = Running::run(&[&["top", "--url", &url, "--interval=100ms"], more].concat(), &[]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        let line = |begins: &str| {
            let line = ended.stdout.lines().find(|line| line.trim_start().starts_with(begins));
            line.unwrap_or_else(|| panic!("no {begins}: {}", ended.stdout)).split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(line("server")[1..], ["ready", "publishing", "works"]);
        assert_eq!(line("clients")[1..5], ["1", "websocket", "1", "sse"]);
        assert_eq!(line("odds_updates")[1..], ["1", "1", "1", "0"]);
        assert_eq!(line("scrape_progress")[1..], ["1", "0", "0", "0"]);
        for subscription in ["odds_updates/8301", "scrape_progress"] {
            let of_client = |line: &str| line.starts_with(" 127.0.0.1:") && line.ends_with(subscription);
            assert!(ended.stdout.lines().any(of_client), "{subscription}: {}", ended.stdout);
        }
        assert!(!ended.stdout.contains('\x1b'), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn url_that_is_not_an_admin_listener_is_an_error() {
    let app = App::start().await;
    let ended = Running::run(&["top", &app.url("")], &[]).await;
    ended.failed(1, &["the server has no /metrics: set --url", "--admin-listen"]);
    Running::run(&["top", "http://127.0.0.1:1"], &[])
        .await
        .failed(1, &["nothing listens on http://127.0.0.1:1: start a server"]);
    Running::run(&["top", "127.0.0.1:9100"], &[]).await.failed(2, &["127.0.0.1:9100", "http://"]);
}

/// Whether the program has left the alternate screen and shown the cursor again.
fn is_restored(shown: &str) -> bool {
    shown.contains("\x1b[?1049l") && shown.contains("\x1b[?25h")
}

#[tokio::test]
async fn keys_sort_pause_and_quit_and_the_terminal_is_restored() {
    let app = App::start().await;
    let _client = app.ws("").await;
    let url = format!("http://{}", app.admin);
    let Some(mut top) = Running::in_terminal(&["top", &url, "--interval=100ms"], &[]) else { return };
    for text in ["oddswire top", "SUBSCRIBERS", "odds_updates", "127.0.0.1:"] {
        top.draws(text).await;
    }
    let mut keys = top.stdin.take().unwrap();
    // The program draws only the cells that change, so only a part of the new sort order's name appears.
    for (key, drawn) in [("s", "most tra"), ("p", "PAUSED")] {
        keys.write_all(key.as_bytes()).await.unwrap();
        top.draws(drawn).await;
    }
    keys.write_all(b"q").await.unwrap();
    let ended = top.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(is_restored(&ended.stdout), "{ended:?}");
}

#[tokio::test]
async fn lost_server_is_shown_and_a_signal_restores_the_terminal() {
    let app = App::start().await;
    let url = format!("http://{}", app.admin);
    let Some(mut top) = Running::in_terminal(&["top", &url, "--interval=100ms"], &[]) else { return };
    top.draws("publishing works").await;
    assert!(app.stop().await);
    // Wait for the end of the error text. The program draws only changed cells, so it does not draw the beginning again if
    // an earlier error began in the same way.
    top.draws("or set --url").await;
    top.signal_inside("TERM");
    let ended = top.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(is_restored(&ended.stdout), "{ended:?}");
}

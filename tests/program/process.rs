//! The program's start, its end, and its `health` command.

use std::net::TcpListener;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::harness::process::{Process, TOKEN, run};
use crate::harness::{within, ws};

// Start and end.

#[tokio::test]
async fn sigterm_and_sigint_drain_and_exit_with_0() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::serve(&[]).await;
        let mut client = ws::Client::connect(process.address, "").await;
        process.signal(signal);
        assert_eq!(u16::from(client.closed().await.expect("a close frame with a code").code), 1001, "{signal}");
        assert_eq!(process.event("server.draining").await["connections"], 1);
        drop(client);
        let ended = process.end().await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn serve_is_the_default_command() {
    let process = Process::start(&["serve", "--listen=127.0.0.1:0", "--publish-token=flag"], &[]).await;
    assert_eq!(process.publish("flag").await, 200);
    let environment = [("ODDSWIRE_LISTEN", "127.0.0.1:0"), ("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];
    for arguments in [&["serve"][..], &[]] {
        let process = Process::start(arguments, &environment).await;
        assert_eq!(process.publish(TOKEN).await, 200, "{arguments:?}");
        process.signal("TERM");
        assert_eq!(process.end().await.code, Some(0));
    }
}

#[tokio::test]
async fn flag_overrides_its_variable() {
    let environment = [("ODDSWIRE_LISTEN", "no address"), ("ODDSWIRE_PUBLISH_TOKEN", "variable")];
    for command in [&[][..], &["serve"]] {
        let arguments = [command, &["--listen=127.0.0.1:0", "--publish-token=flag"]].concat();
        let process = Process::start(&arguments, &environment).await;
        assert_eq!((process.publish("variable").await, process.publish("flag").await), (401, 200), "{command:?}");
    }
}

#[tokio::test]
async fn address_in_use_exits_with_1_and_names_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, says) in [
        (["--listen", &address, "--admin-listen", "off"], "set listen to"),
        (["--listen", "127.0.0.1:0", "--admin-listen", &address], "set admin-listen to another address and port, or"),
    ] {
        let ended = run(&arguments, &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        let failed: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
        assert_eq!((&failed["event"], &failed["level"]), (&json!("server.failed"), &json!("ERROR")));
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains("in use") && error.contains(says), "{error}");
        assert_eq!(error.matches(&address).count(), 1, "{error}");
    }
}

// Health.

#[tokio::test]
async fn health_exits_with_0_if_the_server_runs() {
    let process = Process::serve(&[]).await;
    let address = process.address.to_string();
    let everywhere = format!("0.0.0.0:{}", process.address.port());
    let url = process.url("");
    for ended in [
        run(&["health", "--timeout=60s", "--listen", &address], &[]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &address)]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &everywhere)]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &address), ("ODDSWIRE_PUBLISH_TOKEN", TOKEN)]).await,
        run(&["health", "--timeout=60s", "--url", &url], &[]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_URL", &url), ("ODDSWIRE_LISTEN", "127.0.0.1:1")]).await,
        run(&["health", "--timeout=60s", "--listen", &address], &[("ODDSWIRE_URL", "http://127.0.0.1:1")]).await,
    ] {
        assert_eq!((ended.code, ended.stdout, ended.stderr), (Some(0), String::new(), String::new()));
    }
}

#[tokio::test]
async fn health_exits_with_1_and_one_line_if_no_server_answers() {
    // Bind without listening. No other program then gets the port, and the system refuses connections to it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let refused = run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &address)]).await;
    assert!(
        refused.stderr.contains(&format!("nothing listens on http://{address}: start a server")),
        "{}",
        refused.stderr
    );

    // This listener accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let silence = run(&["health", "--timeout=100ms", "--listen", &address], &[]).await;
    assert!(silence.stderr.contains(&format!("{address} did not answer within 100ms")), "{}", silence.stderr);
    for ended in [refused, silence] {
        assert_eq!((ended.code, ended.stderr.lines().count(), ended.stdout.as_str()), (Some(1), 1, ""));
    }
}

#[tokio::test]
async fn health_exits_with_1_if_the_answer_is_not_200_or_not_http() {
    for (answer, says) in [("HTTP/1.1 503 Sorry\r\ncontent-length: 0\r\n\r\n", "503"), ("220 smtp\r\n", "not answer")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let arguments = ["health", "--timeout=60s", "--listen", &address];
        let serving = async {
            let (mut stream, _) = within(listener.accept()).await.unwrap();
            let mut request = [0; 1024];
            assert!(within(stream.read(&mut request)).await.unwrap() > 0);
            within(stream.write_all(answer.as_bytes())).await.unwrap();
            stream
        };
        let (_open, ended) = tokio::join!(serving, run(&arguments, &[]));
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{}", ended.stderr);
        assert!(ended.stderr.contains(says) && ended.stderr.contains(&address), "{}", ended.stderr);
    }
}

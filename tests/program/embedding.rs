//! The programs in `examples/`: runs each of them, and checks its output.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::harness::within;

/// A command that runs an example. Cargo builds the examples next to the tests.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile: PathBuf = test.parent().and_then(|deps| deps.parent()).unwrap().to_owned();
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "{} is not built: run 'cargo build --examples'", program.display());
    let mut command = Command::new(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn manager_example_prints_the_prices_of_one_event() {
    let output = within(example("manager").output()).await.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let messages: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(messages[0]["type"], "connection_ack");
    let prices: Vec<_> = messages[1..].iter().map(|message| (&message["key"], &message["data"]["home"])).collect();
    assert_eq!(prices, [(&"8301/1x2/betpawa".into(), &1.85.into()), (&"8301/1x2/betpawa".into(), &1.90.into())]);
}

#[tokio::test]
async fn embedded_example_serves_its_own_and_the_servers_routes() {
    let mut child = example("embedded").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = within(lines.next_line()).await.unwrap().expect("the example prints its address");
    let answer = within(reqwest::get(&url)).await.unwrap();
    assert_eq!(within(answer.text()).await.unwrap(), "0 clients\n");
    let health = url.replace("/clients", "/healthz");
    assert_eq!(within(reqwest::get(health)).await.unwrap().status(), 200);
    let unknown = within(reqwest::get(url.replace("/clients", "/unknown"))).await.unwrap();
    assert_eq!(unknown.status(), 404);
    let request = reqwest::Client::new().get(&url).header("host", "a b").send();
    assert_eq!(within(request).await.unwrap().status(), 400, "the server checks the host for the example's route, too");
    // The example ends when its standard input ends.
    drop(child.stdin.take());
    assert!(within(child.wait()).await.unwrap().success());
}

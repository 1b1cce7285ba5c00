//! A real Prometheus that scrapes the server and evaluates `deploy/alerts.yml`; and its checker, promtool.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::program::{self, Directory, Port, deploy};
use super::{Answer, App, PATIENCE, within};

/// A running Prometheus.
pub struct Prometheus {
    process: Child,
    directory: Directory,
    port: Port,
}

impl Prometheus {
    /// Starts Prometheus, and waits until it has scraped the server once. `None` if Prometheus is not installed.
    pub async fn start(app: &App) -> Option<Self> {
        if !program::is_installed("prometheus", Command::new("prometheus").arg("--version")) {
            return None;
        }
        let (directory, port) = (Directory::new(), Port::free());
        let configuration = serde_json::json!({
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "rule_files": [deploy("alerts.yml")],
            "scrape_configs": [
                {"job_name": "oddswire", "static_configs": [{"targets": [app.admin.to_string()]}]},
            ],
        });
        // Prometheus reads YAML. JSON is valid YAML.
        let file = directory.0.join("prometheus.yml");
        std::fs::write(&file, configuration.to_string()).unwrap();
        let output =
            || std::fs::File::options().create(true).append(true).open(directory.0.join("output.log")).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.0.join("data").display()));
        command.arg(format!("--web.listen-address={}", port.address));
        let command = command.stdin(Stdio::null()).stdout(output()).stderr(output());
        let process = command.spawn().expect("prometheus starts");
        let mut prometheus = Self { process, directory, port };
        prometheus.has_scraped().await;
        Some(prometheus)
    }

    async fn has_scraped(&mut self) {
        let http = reqwest::Client::new();
        let url = self.url("/api/v1/query?query=up==1");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "prometheus ended with {ended:?}");
            assert!(tokio::time::Instant::now() < deadline, "prometheus has not scraped the server in time");
            // Prometheus accepts connections before it answers requests, so an error only means "not yet".
            let Ok(response) = http.get(&url).timeout(PATIENCE).send().await else { continue };
            let answer: Option<Value> = serde_json::from_str(&response.text().await.unwrap_or_default()).ok();
            if answer.is_some_and(|answer| answer["data"]["result"].as_array().is_some_and(|up| !up.is_empty())) {
                return;
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address)
    }

    /// The field `data` in the answer of Prometheus' HTTP API.
    pub async fn get(&self, path: &str) -> Value {
        let answer = within(Answer::of_other(reqwest::Client::new().get(self.url(path)))).await;
        assert_eq!(answer.body["status"], "success", "{path}: {}", answer.text);
        answer.body["data"].clone()
    }

    /// Evaluates an expression, which must be valid, and returns the current values.
    pub async fn query(&self, expression: &str) -> Vec<f64> {
        let query: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let data = self.get(&format!("/api/v1/query?query={query}")).await;
        let samples = data["result"].as_array().expect("a vector").iter();
        samples.map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.0.join("output.log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}

/// Runs promtool with `input` as its standard input. `None` if promtool is not installed.
pub async fn promtool(arguments: &[&str], input: &str) -> Option<Output> {
    if !program::is_installed("promtool", Command::new("promtool").arg("--version")) {
        return None;
    }
    let mut command = tokio::process::Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().expect("promtool starts");
    let mut stdin = process.stdin.take().expect("standard input is piped");
    // This write fails if promtool ends without reading its input.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    Some(within(process.wait_with_output()).await.expect("promtool ends"))
}

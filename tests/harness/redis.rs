//! A real Redis, with what a test does to it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue};

use super::PATIENCE;
use super::program::{self, Directory, Port};

/// A Redis of a test's own: what it keeps is in a directory, and gone with it.
pub struct Redis {
    process: Option<Child>,
    pub directory: Directory,
    port: Port,
    arguments: Vec<String>,
}

impl Redis {
    /// Whether it is installed; if not, that is said.
    pub fn is_installed() -> bool {
        program::is_installed("redis-server", Command::new("redis-server").arg("--version"))
    }

    /// Starts one that keeps nothing on the disk; `None` where it is not installed.
    pub async fn start() -> Option<Self> {
        Self::with(&[]).await
    }

    /// The same, with further arguments.
    pub async fn with(arguments: &[&str]) -> Option<Self> {
        if !Self::is_installed() {
            return None;
        }
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { process: None, directory: Directory::new(), port: Port::free(), arguments };
        redis.resume().await;
        Some(redis)
    }

    /// Starts it on the same port with what its directory has.
    pub async fn resume(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let output = || {
            let file = self.directory.0.join("output.log");
            std::fs::File::options().create(true).append(true).open(file).unwrap()
        };
        let mut command = Command::new("redis-server");
        let (address, directory) = (self.port.address, self.directory.0.display().to_string());
        command.args(["--port", &address.port().to_string(), "--bind", &address.ip().to_string()]);
        command.args(["--dir", &directory, "--save", ""]).args(&self.arguments);
        let process = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn();
        self.process = Some(process.expect("redis-server starts"));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while self.ping().await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "redis-server does not answer");
            looks.tick().await;
        }
    }

    async fn ping(&self) -> redis::RedisResult<String> {
        redis::cmd("PING").query_async(&mut self.connection().await?).await
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.port.address)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.port.address
    }

    async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    /// What it answers to a command, which has to succeed.
    pub async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await.expect("redis-server answers");
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query_async(&mut connection).await.expect("the command succeeds")
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it was running");
        }
    }

    /// Stops (`STOP`) and goes on with (`CONT`) its process.
    pub fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &process]).status().expect("kill is there");
        assert!(sent.success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

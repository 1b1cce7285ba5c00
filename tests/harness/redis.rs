//! A real Redis, and the faults that tests cause in it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue};

use super::PATIENCE;
use super::program::{self, Directory, Port};

/// A Redis server for one test. Its data is in a temporary directory.
pub struct Redis {
    process: Option<Child>,
    pub directory: Directory,
    port: Port,
    arguments: Vec<String>,
}

impl Redis {
    /// Whether Redis is installed. If not, prints that the test is skipped.
    pub fn is_installed() -> bool {
        program::is_installed("redis-server", Command::new("redis-server").arg("--version"))
    }

    /// Starts a Redis that does not persist its data. `None` if Redis is not installed.
    pub async fn start() -> Option<Self> {
        Self::with(&[]).await
    }

    /// The same as `start`, but with these additional arguments.
    pub async fn with(arguments: &[&str]) -> Option<Self> {
        if !Self::is_installed() {
            return None;
        }
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { process: None, directory: Directory::new(), port: Port::free(), arguments };
        redis.resume().await;
        Some(redis)
    }

    /// Starts Redis on its port, with the data in its directory.
    pub async fn resume(&mut self) {
        assert!(self.process.is_none(), "redis-server already runs");
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

    /// Sends a command and returns the answer; `None` if Redis refuses the command or closes the connection.
    pub async fn try_ask<T: FromRedisValue>(&self, command: &[&str]) -> Option<T> {
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query_async(&mut self.connection().await.ok()?).await.ok()
    }

    /// Sends a command, which must succeed, and returns the answer.
    pub async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await.expect("redis-server answers");
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query_async(&mut connection).await.expect("the command succeeds")
    }

    /// Kills Redis, copies its data, and starts Redis again.
    pub async fn remember(&mut self) {
        self.kill();
        self.copy();
        self.resume().await;
    }

    /// Copies the data of Redis while Redis runs.
    pub fn remember_running(&self) {
        // Pause the process, because the files are consistent only while the process does not write.
        self.signal("STOP");
        self.copy();
        self.signal("CONT");
    }

    fn copy(&self) {
        let [kept, copy] = self.places();
        assert!(Command::new("cp").arg("-r").args([&kept, &copy]).status().unwrap().success());
    }

    /// Kills Redis and replaces its data by the earlier copy. The newest writes are then lost, as after a failover or a
    /// crash.
    pub fn lose_end(&mut self) {
        self.kill();
        let [kept, copy] = self.places();
        std::fs::remove_dir_all(&kept).unwrap();
        std::fs::rename(&copy, &kept).unwrap();
    }

    fn places(&self) -> [std::path::PathBuf; 2] {
        ["appendonlydir", "copy"].map(|name| self.directory.0.join(name))
    }

    /// Kills the Redis process.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("the process runs");
            process.wait().expect("the process ends");
        }
    }

    /// Pauses the process (`STOP`) or lets it continue (`CONT`).
    pub fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("the process runs").id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &process]).status().expect("kill is installed");
        assert!(sent.success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

// Replicas, Cluster, Sentinel and TLS.

impl Redis {
    /// Starts a replica of another Redis, and waits until it is in sync.
    pub async fn replica_of(master: &Self) -> Option<Self> {
        let address = master.address();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let replica = Self::with(&["--replicaof", &host, &port]).await?;
        master.reaches("is replicated", "replication", "state=online").await;
        Some(replica)
    }

    /// Waits until a section of `INFO` contains this text.
    pub async fn reaches(&self, what: &str, section: &str, text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            let said: String = self.ask(&["INFO", section]).await;
            if said.contains(text) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "timeout before it {what}: {said}");
            looks.tick().await;
        }
    }
}

/// A Redis Cluster: masters that share the slots.
pub struct Cluster {
    pub masters: Vec<Redis>,
    _buses: Vec<Port>,
}

impl Cluster {
    /// Starts this many masters, and waits until each of them reports the cluster as complete.
    pub async fn of(count: usize) -> Option<Self> {
        const SLOTS: usize = 16_384;
        let (mut masters, buses) = (Vec::new(), (0..count).map(|_| Port::free()).collect::<Vec<_>>());
        for (at, bus) in buses.iter().enumerate() {
            let bus = bus.address.port().to_string();
            let master = Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await?;
            let [first, last] = [at, at + 1].map(|at| at * SLOTS / count);
            let slots = [first.to_string(), (last - 1).to_string()];
            master.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &slots[0], &slots[1]]).await;
            master.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await;
            masters.push(master);
        }
        for (master, bus) in masters.iter().zip(&buses).skip(1) {
            let [ip, port] = [master.address().ip().to_string(), master.address().port().to_string()];
            let bus = bus.address.port().to_string();
            masters[0].ask::<()>(&["CLUSTER", "MEET", &ip, &port, &bus]).await;
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        for master in &masters {
            loop {
                let said: String = master.ask(&["CLUSTER", "INFO"]).await;
                if said.contains("cluster_state:ok") && said.contains(&format!("cluster_known_nodes:{count}")) {
                    break;
                }
                assert!(tokio::time::Instant::now() < deadline, "the cluster is not complete in time: {said}");
                looks.tick().await;
            }
        }
        Some(Self { masters, _buses: buses })
    }

    /// A URL that names only one of the masters. Nodes discover the others.
    pub fn url(&self) -> String {
        format!("redis-cluster://{}", self.masters[0].address())
    }

    /// The master that owns the slot of a key.
    pub async fn owner(&mut self, key: &str) -> &mut Redis {
        let slot: usize = self.masters[0].ask(&["CLUSTER", "KEYSLOT", key]).await;
        let slots: Vec<(usize, usize, Vec<redis::Value>)> = self.masters[0].ask(&["CLUSTER", "SLOTS"]).await;
        let of = slots.into_iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).expect("it has an owner");
        let port: (String, u16) = redis::from_redis_value(redis::Value::Array(of.2[..2].to_vec())).unwrap();
        self.masters.iter_mut().find(|master| master.address().port() == port.1).expect("a known master")
    }
}

/// A single Sentinel, with a quorum of one. It monitors the master under the name `main`.
pub struct Sentinel {
    process: Child,
    port: Port,
    _directory: Directory,
}

impl Sentinel {
    /// Starts a Sentinel, and waits until it knows the master's replica.
    pub async fn of(master: &Redis) -> Self {
        let (directory, port) = (Directory::new(), Port::free());
        let (address, watched) = (port.address, master.address());
        let settings = format!(
            "port {}\nbind {}\ndir {}\nsentinel monitor main {} {} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 1000\n",
            address.port(),
            address.ip(),
            directory.0.display(),
            watched.ip(),
            watched.port(),
        );
        let file = directory.0.join("sentinel.conf");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("redis-server starts");
        let sentinel = Self { process, port, _directory: directory };
        sentinel.reaches("knows the replica", &["SENTINEL", "REPLICAS", "main"], "\"ok\"").await;
        sentinel
    }

    /// The URL with which a node asks this Sentinel for the master.
    pub fn url(&self) -> String {
        format!("redis-sentinel://{}/main", self.port.address)
    }

    /// Makes the Sentinel promote the replica to master.
    pub async fn fail_over(&self) {
        self.ask(&["SENTINEL", "FAILOVER", "main"]).await.expect("there is a replica");
    }

    /// Waits until the Sentinel names this Redis as the master.
    pub async fn follows(&self, master: &Redis) {
        let port = format!("\"{}\"", master.address().port());
        self.reaches("has another master", &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"], &port).await;
    }

    async fn ask(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = Client::open(format!("redis://{}", self.port.address))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
    }

    /// Waits until the answer to a command contains this text.
    async fn reaches(&self, what: &str, command: &[&str], text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            let said = format!("{:?}", self.ask(command).await);
            if said.contains(text) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "timeout before it {what}: {said}");
            looks.tick().await;
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate authority, a certificate for 127.0.0.1 that this authority has signed, and a second authority that has
/// signed nothing.
pub struct Certificates {
    directory: Directory,
}

impl Certificates {
    /// Creates the certificates. `None` if `openssl` is not installed.
    pub fn new() -> Option<Self> {
        if !program::is_installed("openssl", Command::new("openssl").arg("version")) {
            return None;
        }
        let certificates = Self { directory: Directory::new() };
        let extensions = certificates.path("server.ext");
        std::fs::write(&extensions, "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n").unwrap();
        for (name, subject) in [("ca", "/CN=tests"), ("other", "/CN=others")] {
            let files = format!("-keyout {name}.key -out {name}.crt -subj {subject}");
            certificates.openssl(&format!("req -x509 -newkey rsa:2048 -nodes -days 2 {files}"));
        }
        certificates.openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=redis");
        let signed = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext";
        certificates.openssl(&format!("x509 -req -in server.csr -out server.crt {signed}"));
        Some(certificates)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(&self.directory.0).stdin(Stdio::null());
        let made = command.output().expect("openssl starts");
        assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// The path of a file: `ca.crt`, `other.crt`, `server.crt` or `server.key`.
    pub fn path(&self, name: &str) -> String {
        self.directory.0.join(name).into_os_string().into_string().expect("the path is ASCII")
    }

    /// Starts a Redis with the signed certificate, and returns the URL of its TLS port.
    pub async fn redis(&self) -> Option<(Redis, Port, String)> {
        let port = Port::free();
        let (number, certificate, key) =
            (port.address.port().to_string(), self.path("server.crt"), self.path("server.key"));
        let settings = ["--tls-port", &number, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let ca = self.path("ca.crt");
        let more = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"];
        let redis = Redis::with(&[&settings[..], &more].concat()).await?;
        let url = format!("rediss://{}", port.address);
        Some((redis, port, url))
    }
}

//! The reverse proxies nginx, `HAProxy` and Caddy, run with the files of `deploy/`.
//!
//! Each test changes a copy of the file, and only where necessary: the listening address, the address of the server,
//! the places of logs and admin socket, and in some tests a timeout that would be too long. Each replaced text must
//! occur in the file, so a change of the file cannot silently remove a line that a test relies on.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::program::{self, Directory, Port, deploy};
use super::{PATIENCE, within};

/// The two timeouts in the files that tests shorten. A connection may be idle for `IDLE`. After a reload, old
/// connections may stay for `GRACE`.
pub const IDLE: &str = "75s";
pub const GRACE: &str = "2m";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    Nginx,
    Haproxy,
    Caddy,
}

use Software::{Caddy, Haproxy, Nginx};

impl Software {
    fn name(self) -> &'static str {
        match self {
            Nginx => "nginx",
            Haproxy => "haproxy",
            Caddy => "caddy",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Nginx => "nginx.conf",
            Haproxy => "haproxy.cfg",
            Caddy => "Caddyfile",
        }
    }

    /// Whether the proxy is installed. If not, prints that the test is skipped.
    pub fn is_installed(self) -> bool {
        let version = if self == Caddy { "version" } else { "-v" };
        program::is_installed(self.name(), self.command(Path::new("/")).arg(version))
    }

    /// A command that runs the proxy. The proxy writes its files into `directory`.
    fn command(self, directory: &Path) -> Command {
        let mut command = Command::new(self.name());
        // Add the directories of daemons, which are not in the `PATH` of ordinary users.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        command.env("PATH", path).env("HOME", directory).env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
        command.stdin(Stdio::null());
        command
    }
}

/// A copy of a configuration file of `deploy/`, with a test's changes.
pub struct Configuration {
    software: Software,
    directory: Directory,
    file: PathBuf,
    /// The address on which the proxy listens.
    pub address: SocketAddr,
    _port: Port,
}

impl Configuration {
    pub fn new(software: Software, server: SocketAddr, changes: &[(&str, &str)]) -> Self {
        let port = Port::free();
        let address = port.address;
        let directory = Directory::new();

        let mut text = std::fs::read_to_string(deploy(software.file())).unwrap();
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "{} has no {from:?}", software.file());
            text = text.replace(from, to);
        };
        replace("127.0.0.1:8000", &server.to_string());
        let at = |rest: &str| format!("{}{rest}", directory.0.display());
        match software {
            Nginx => {
                replace("listen 80 ", &format!("listen {address} "));
                replace("listen [::]:80 backlog=4096;", "");
                replace("/var/log/nginx/", &at("/"));
            }
            Haproxy => {
                replace("bind :80 ", &format!("bind {address} "));
                replace("bind :::80 v6only backlog 4096", "");
            }
            Caddy => {
                replace("\n:80 {", &format!("\n:{} {{\n\tbind {}", address.port(), address.ip()));
                replace("localhost:2019", &format!("unix/{}", at("/admin.sock")));
            }
        }
        for (from, to) in changes {
            replace(from, to);
        }
        let file = directory.0.join(software.file());
        std::fs::write(&file, text).unwrap();
        Self { software, directory, file, address, _port: port }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.software.command(&self.directory.0);
        command.args(arguments);
        command
    }

    fn nginx(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        let main = format!("daemon off; pid {}/nginx.pid;", self.directory.0.display());
        command.arg("-p").arg(&self.directory.0).arg("-c").arg(&self.file).args(["-g", &main]);
        command
    }

    fn haproxy(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("-f").arg(&self.file);
        command
    }

    fn caddy(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.args(["--adapter", "caddyfile", "--config"]).arg(&self.file);
        command
    }

    /// Runs the proxy's built-in check of the configuration.
    pub fn check(&self) -> Output {
        let mut command = match self.software {
            Nginx => self.nginx(&["-t"]),
            Haproxy => self.haproxy(&["-c"]),
            Caddy => self.caddy(&["validate"]),
        };
        command.output().expect("the checker starts")
    }

    /// Starts the proxy in the foreground.
    fn spawn(&self) -> Child {
        self.spawn_as(match self.software {
            Nginx => self.nginx(&[]),
            Haproxy => self.haproxy(&["-db"]),
            Caddy => self.caddy(&["run"]),
        })
    }

    fn spawn_as(&self, mut command: Command) -> Child {
        let output = || std::fs::File::options().create(true).append(true).open(self.output()).unwrap();
        command.stdout(output()).stderr(output()).spawn().expect("the proxy starts")
    }

    fn output(&self) -> PathBuf {
        self.directory.0.join("output.log")
    }

    /// The proxy's output and all its log files.
    fn logs(&self) -> String {
        let mut logs = String::new();
        for entry in std::fs::read_dir(&self.directory.0).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                writeln!(logs, "{}:\n{}", path.display(), std::fs::read_to_string(&path).unwrap()).unwrap();
            }
        }
        logs
    }
}

/// A running proxy.
pub struct Proxy {
    configuration: Configuration,
    pub address: SocketAddr,
    /// The proxy's processes, the newest last. Each reload of `HAProxy` adds a process.
    processes: Vec<Child>,
}

impl Proxy {
    /// Starts the proxy in front of a server, and waits until the proxy accepts connections. `None` if it is not
    /// installed.
    pub async fn start(software: Software, server: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        if !software.is_installed() {
            return None;
        }
        let configuration = Configuration::new(software, server, changes);
        let (address, process) = (configuration.address, configuration.spawn());
        let mut proxy = Self { configuration, address, processes: vec![process] };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while TcpStream::connect(address).await.is_err() {
            let ended = proxy.processes[0].try_wait().unwrap();
            assert!(ended.is_none(), "{software:?} ended with {ended:?}:\n{}", proxy.logs());
            assert!(tokio::time::Instant::now() < deadline, "{software:?} does not listen:\n{}", proxy.logs());
            looks.tick().await;
        }
        Some(proxy)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn logs(&self) -> String {
        self.configuration.logs()
    }

    /// Makes the proxy reload its configuration, in the same way as the proxy's system service does.
    pub async fn reload(&mut self) {
        let current = self.processes.last().expect("a process runs").id();
        match self.configuration.software {
            Nginx => assert!(signal("HUP", current).success()),
            Haproxy => {
                let configuration = &self.configuration;
                let successor = configuration.haproxy(&["-db", "-sf", &current.to_string()]);
                self.processes.push(configuration.spawn_as(successor));
            }
            Caddy => {
                let mut command = tokio::process::Command::from(self.configuration.caddy(&["reload", "--force"]));
                let output = within(command.output()).await.expect("caddy starts");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for process in &mut self.processes {
            // If nginx's master process is killed, its worker processes keep running. On SIGTERM the master ends the
            // workers and then itself.
            if self.configuration.software == Nginx && matches!(process.try_wait(), Ok(None)) {
                signal("TERM", process.id());
            } else {
                let _ = process.kill();
            }
            let _ = process.wait();
        }
    }
}

fn signal(name: &str, id: u32) -> ExitStatus {
    Command::new("kill").args(["-s", name, &id.to_string()]).status().expect("kill is installed")
}

/// An event stream through a proxy, read line by line, because an SSE parser would hide the comments.
pub struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    pub async fn connect(proxy: &Proxy, query: &str) -> Self {
        let response = within(reqwest::get(proxy.url(&format!("/api/sse?{query}")))).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: Vec::new() }
    }

    /// The next line that is not empty; `None` at the end of the stream and after an error.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8(self.buffer.drain(..=end).collect()).unwrap();
                match line.trim_end() {
                    "" => {}
                    line => return Some(line.to_owned()),
                }
            } else {
                let chunk = within(self.response.chunk()).await.ok()??;
                self.buffer.extend_from_slice(&chunk);
            }
        }
    }

    /// The data of the next event; `None` at the end of the stream.
    pub async fn data(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.next().await?.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }
}

/// A request that the [`Recorder`] has received.
#[derive(Debug)]
pub struct Request {
    /// The number of the connection, counted from 0.
    pub connection: usize,
    pub head: String,
}

impl Request {
    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

/// A server that takes the place of oddswire, and records the requests that a proxy sends. It answers every request
/// with 200 and an empty body.
pub struct Recorder {
    pub address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, requests) = mpsc::unbounded_channel();
        // The task ends with the test's runtime.
        tokio::spawn(async move {
            for connection in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(record(socket, connection, heads.clone()));
            }
        });
        Self { address, requests }
    }

    /// Returns the next request to this path. Skips requests to other paths, such as health checks.
    pub async fn request(&mut self, path: &str) -> Request {
        loop {
            let request = within(self.requests.recv()).await.expect("the recorder runs");
            if request.head.split(' ').nth(1).is_some_and(|target| target.split('?').next() == Some(path)) {
                return request;
            }
        }
    }
}

async fn record(mut socket: TcpStream, connection: usize, heads: mpsc::UnboundedSender<Request>) {
    let mut head = Vec::new();
    // The requests in these tests have no body, so a request ends after its head.
    while let Ok(byte) = socket.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8(std::mem::take(&mut head)).unwrap();
            let answered = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            if heads.send(Request { connection, head }).is_err() || answered.is_err() {
                return;
            }
        }
    }
}

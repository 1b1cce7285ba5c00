//! A server under test: one or more child processes that listen on free ports.

pub mod deployment;
pub mod dialect;
pub mod listen_overflows;
pub mod open_files;
pub mod process;
pub mod resident;
pub mod spec;

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::deadline::Deadline;
use crate::server::deployment::Deployment;
use crate::server::dialect::Dialect;
use crate::server::process::{Cpu, Resident};
use crate::server::spec::ServerSpec;

/// The first source address of clients. It differs from the server's address, so that no socket can connect to itself.
pub const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The pause between two attempts to connect to a starting server.
const START_POLL: Duration = Duration::from_millis(20);

/// The time limit of one attempt to connect.
const START_ATTEMPT: Duration = Duration::from_secs(1);

/// The number of times to check, after an error, whether the server has exited.
const EXIT_CHECKS: u32 = 10;

/// The maximum number of lines of the server's log in an error text.
const LOG_TAIL: usize = 5;

/// A running server: one process, or several nodes with their Redis. Dropping this value kills all processes.
pub struct Server {
    name: String,
    pub dialect: Dialect,
    /// The nodes and, for some deployments, Redis.
    children: Vec<Child>,
    addresses: Vec<SocketAddr>,
    /// A temporary folder for the log, the configuration file and stored messages.
    scratch: TempDir,
}

impl Server {
    /// Starts a server with additional arguments. Returns when the server accepts connections.
    pub fn start(spec: &ServerSpec, deployment: Deployment, further: &[String], limit: Duration) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("oddswire-bench-").tempdir()?;
        let (name, dialect) = (spec.name.clone(), spec.dialect);
        let mut server = Self { name, dialect, children: Vec::new(), addresses: Vec::new(), scratch };
        let started = server.start_all(spec, deployment, further, limit);
        started.map_err(|error| server.explain(error)).map(|()| server)
    }

    fn start_all(
        &mut self,
        spec: &ServerSpec,
        deployment: Deployment,
        further: &[String],
        limit: Duration,
    ) -> Result<()> {
        let deadline = Deadline::after(limit, "waiting for the server to accept connections");
        let broker = deployment.has_broker().then(free_address).transpose()?;
        if let Some(address) = broker {
            self.children.push(deployment::start_broker(address, self.scratch.path())?);
            self.wait_until_accepting(address, &deadline)?;
        }
        let further = [deployment.arguments(self.scratch.path(), broker), further.to_vec()].concat();
        for _ in 0..deployment.nodes() {
            let address = free_address()?;
            let node = self.start_node(spec, address, &further)?;
            self.children.push(node);
            self.addresses.push(address);
            self.wait_until_accepting(address, &deadline)?;
            if broker.is_some() {
                wait_until_ready(address, &deadline)?;
            }
        }
        Ok(())
    }

    fn start_node(&self, spec: &ServerSpec, address: SocketAddr, further: &[String]) -> Result<Child> {
        let (program, arguments) = spec.command_line(address.port(), self.scratch.path())?;
        let log = File::options().create(true).append(true).open(self.scratch.path().join("log"));
        Command::new(&program)
            .args(arguments)
            .args(further)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.context("cannot create the server's log")?)
            .spawn()
            .with_context(|| format!("cannot start {} ({program})", spec.name))
    }

    /// The address of the first node.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The addresses of all nodes.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Tries to connect until the server accepts. Sleeps between attempts: no event tells when another process begins
    /// to listen.
    fn wait_until_accepting(&mut self, address: SocketAddr, deadline: &Deadline) -> Result<()> {
        loop {
            let remaining = deadline.remaining()?;
            match try_connect(address, remaining.min(START_ATTEMPT)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => return Err(error).context("cannot connect"),
            }
            if self.ended()?.is_some() {
                bail!("the server does not accept connections");
            }
            pause(START_POLL);
        }
    }

    /// The exit status of a process of this server that has ended; `None` if all processes run.
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    /// The process ids of the nodes, their workers and Redis.
    fn processes(&self) -> Result<Vec<u32>> {
        let families = self.children.iter().map(|child| process::family(child.id()));
        Ok(families.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Reads the resident memory of all processes.
    pub fn resident(&self) -> Result<Resident> {
        process::resident(&self.processes()?)
    }

    /// Reads the processor time of all processes.
    pub fn cpu(&self) -> Result<Cpu> {
        process::cpu(&self.processes()?)
    }

    /// Counts the lines of the log that contain a text.
    pub fn log_lines(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    fn log(&self) -> String {
        fs::read(self.scratch.path().join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Adds the server's name to an error, and if the server has exited, the end of its log. An exiting server drops
    /// its connections shortly before its exit is visible. So this function waits for the exit, at most 0.2 s.
    pub fn explain(&mut self, error: Error) -> Error {
        for _ in 0..EXIT_CHECKS {
            if let Ok(Some(status)) = self.ended() {
                let log = self.log();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join(" | ");
                return error.context(format!("the server {} died ({status}); its log ends: {tail}", self.name));
            }
            pause(START_POLL);
        }
        error.context(format!("measuring {} failed", self.name))
    }
}

impl Drop for Server {
    /// Looks up the worker processes first, because they keep running when their parent is killed. Ignores errors,
    /// which mean that a process has already ended.
    fn drop(&mut self) {
        for child in &mut self.children {
            let family = process::family(child.id()).unwrap_or_default();
            let _ = child.kill();
            let _ = child.wait();
            let raw = |pid: &u32| i32::try_from(*pid).ok().and_then(Pid::from_raw);
            for worker in family.iter().skip(1).filter_map(raw) {
                let _ = kill_process(worker, Signal::KILL);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the load generator has no runtime whose worker this could block")]
fn pause(period: Duration) {
    thread::sleep(period);
}

/// Asks the system for a free port. If another process takes this port before the server does, the server fails to
/// start.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("cannot find a free port")
}

/// Waits until the node answers `/readyz` with the status 200. A node with Redis accepts connections before it has read
/// the stored messages.
fn wait_until_ready(address: SocketAddr, deadline: &Deadline) -> Result<()> {
    loop {
        let remaining = deadline.remaining()?;
        let mut stream = TcpStream::connect_timeout(&address, remaining.min(START_ATTEMPT))?;
        stream.set_read_timeout(Some(remaining))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(());
        }
        pause(START_POLL);
    }
}

/// Tries to connect once, from `FIRST_SOURCE`. From the server's own address, the system could choose the server's port
/// as the source port. The socket would then connect to itself.
fn try_connect(address: SocketAddr, timeout: Duration) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::from((FIRST_SOURCE, 0)).into())?;
    socket.connect_timeout(&address.into(), timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exited_server_is_reported_as_dead() {
        let spec = "gone=false {port}".parse().expect("the server has a name and a port");
        let error = Server::start(&spec, Deployment::Memory, &[], Duration::from_secs(10))
            .err()
            .expect("the program exits at once");
        assert!(error.to_string().starts_with("the server gone died"));
    }

    #[test]
    fn server_that_never_listens_misses_the_deadline() {
        let spec = "mute=sleep 1{port}".parse().expect("the server has a name and a port");
        let error = Server::start(&spec, Deployment::Memory, &[], Duration::from_millis(100))
            .err()
            .expect("the program does not listen");
        assert!(format!("{error:#}").contains("deadline"), "{error:#}");
    }
}

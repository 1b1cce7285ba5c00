//! A server under test: a child process that listens on a free port.

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
use crate::deployment::{self, Deployment};
use crate::dialect::Dialect;
use crate::process::{self, Cpu, Resident};
use crate::servers::ServerSpec;
use crate::swarm::FIRST_SOURCE;

/// How long to wait between two attempts to find the server accepting.
const START_POLL: Duration = Duration::from_millis(20);

/// How long one of those attempts may take.
const START_ATTEMPT: Duration = Duration::from_secs(1);

/// How often to look for the exit of a server that has dropped connections.
const EXIT_CHECKS: u32 = 10;

/// How much of a server's log an error quotes, in lines.
const LOG_TAIL: usize = 5;

/// A running server: one process, or several nodes with their broker. It is killed when this value goes out of scope.
pub struct Server {
    name: String,
    pub dialect: Dialect,
    /// The nodes, and behind them the broker where there is one.
    children: Vec<Child>,
    addresses: Vec<SocketAddr>,
    /// Holds its log, and what its configuration needs.
    scratch: TempDir,
}

impl Server {
    /// Starts a server with further arguments and returns once it accepts connections.
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
        let deadline = Deadline::after(limit, "waiting for the server to accept");
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
            .stderr(log.context("could not create the server's log")?)
            .spawn()
            .with_context(|| format!("could not start {} ({program})", spec.name))
    }

    /// The address of its first node, or the only one.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The addresses of all its nodes.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// No event tells that another process has begun to listen, hence the sleep between the attempts.
    fn wait_until_accepting(&mut self, address: SocketAddr, deadline: &Deadline) -> Result<()> {
        loop {
            let remaining = deadline.remaining()?;
            match try_connect(address, remaining.min(START_ATTEMPT)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => return Err(error).context("could not connect"),
            }
            if self.ended()?.is_some() {
                bail!("the server does not accept connections");
            }
            pause(START_POLL);
        }
    }

    /// How one of its processes ended, where one did.
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    /// All processes that belong to it, the broker included.
    fn processes(&self) -> Result<Vec<u32>> {
        let families = self.children.iter().map(|child| process::family(child.id()));
        Ok(families.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Reads the resident memory of the server, its worker processes and its broker.
    pub fn resident(&self) -> Result<Resident> {
        process::resident(&self.processes()?)
    }

    /// Reads the processor time of the server, its worker processes and its broker.
    pub fn cpu(&self) -> Result<Cpu> {
        process::cpu(&self.processes()?)
    }

    /// Counts the lines of the server's log that contain a text.
    pub fn log_lines(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    fn log(&self) -> String {
        fs::read(self.scratch.path().join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Adds to an error which server it came from, and whether that has died. The exit is visible a little after the
    /// connections it breaks, and no event that could be awaited together with a timeout tells of it.
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
    /// Worker processes outlive a parent that is killed, so they are looked up before. Failures are ignored because they
    /// mean that a process is gone already.
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

/// The load generator is no asynchronous program: a thread that sleeps holds up nobody.
#[expect(clippy::disallowed_methods, reason = "there is no runtime whose worker this could block")]
fn pause(period: Duration) {
    thread::sleep(period);
}

/// Finds a port by letting the system choose one. Another process could take it before the server does; the server
/// would then fail to start.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("could not find a free port")
}

/// A node that has a broker accepts connections before it has read what the broker holds, and serves nobody until then.
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

/// Connects once. The source address is fixed because a socket that has the same address as the server could be given
/// the very port it connects to, and would then be connected to itself.
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
    fn a_server_that_exits_is_reported_as_dead() {
        let spec = "gone=false {port}".parse().expect("it is valid");
        let error = Server::start(&spec, Deployment::Memory, &[], Duration::from_secs(10))
            .err()
            .expect("the program exits at once");
        assert!(error.to_string().starts_with("the server gone died"));
    }

    #[test]
    fn a_server_that_never_listens_runs_into_the_deadline() {
        let spec = "mute=sleep 1{port}".parse().expect("it is valid");
        let error = Server::start(&spec, Deployment::Memory, &[], Duration::from_millis(100))
            .err()
            .expect("the program does not listen");
        assert!(format!("{error:#}").contains("deadline"), "{error:#}");
    }
}

//! A server under test: a child process that listens on a free port.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::cli::ServerSpec;
use crate::deadline::Deadline;
use crate::load::FIRST_SOURCE;

/// How long to wait between two attempts to find the server accepting.
const START_POLL: Duration = Duration::from_millis(20);

/// How long one of those attempts may take.
const START_ATTEMPT: Duration = Duration::from_secs(1);

/// How often to look for the exit of a server that has dropped connections.
const EXIT_CHECKS: u32 = 10;

/// A running server. It is killed when this value goes out of scope.
pub struct Server {
    name: String,
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server and returns once it accepts connections.
    pub fn start(spec: &ServerSpec, limit: Duration) -> Result<Self> {
        let address = free_address()?;
        let (program, arguments) = spec.command_line(address.port());
        let child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("could not start {} ({program})", spec.name))?;
        let mut server = Self { name: spec.name.clone(), child, address };
        match server.wait_until_accepting(limit) {
            Ok(()) => Ok(server),
            Err(error) => Err(server.explain(error)),
        }
    }

    /// No event tells that another process has begun to listen, hence the
    /// sleep between the attempts.
    fn wait_until_accepting(&mut self, limit: Duration) -> Result<()> {
        let deadline = Deadline::after(limit, "waiting for the server to accept");
        loop {
            let remaining = deadline.remaining()?;
            match try_connect(self.address, remaining.min(START_ATTEMPT)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => return Err(error).context("could not connect"),
            }
            if self.child.try_wait()?.is_some() {
                bail!("the server does not accept connections");
            }
            thread::sleep(START_POLL);
        }
    }

    /// Reads the resident set size in units of 1024 bytes.
    pub fn resident_kib(&self) -> Result<u32> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        parse_resident(&status).with_context(|| format!("{path} has no valid VmRSS"))
    }

    /// Adds to an error which server it came from, and whether that has died.
    /// The exit is visible a little after the connections it breaks, and no
    /// event that could be awaited together with a timeout tells of it.
    pub fn explain(&mut self, error: Error) -> Error {
        for _ in 0..EXIT_CHECKS {
            if let Ok(Some(status)) = self.child.try_wait() {
                return error.context(format!("the server {} died ({status})", self.name));
            }
            thread::sleep(START_POLL);
        }
        error.context(format!("measuring {} failed", self.name))
    }
}

impl Drop for Server {
    /// Failures are ignored because they mean that the child is gone already.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Finds a port by letting the system choose one. Another process could take
/// it before the server does; the server would then fail to start.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("could not find a free port")
}

/// Connects once. The source address is fixed because a socket that has the
/// same address as the server could be given the very port it connects to, and
/// would then be connected to itself.
fn try_connect(address: SocketAddr, timeout: Duration) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::from((FIRST_SOURCE, 0)).into())?;
    socket.connect_timeout(&address.into(), timeout)
}

fn parse_resident(status: &str) -> Option<u32> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_found_among_the_other_lines() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t     812 kB\nThreads:\t1\n";
        assert_eq!(parse_resident(status), Some(812));
        assert_eq!(parse_resident("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_server_that_exits_is_reported_as_dead() {
        let spec = "gone=false {port}".parse().expect("it is valid");
        let error = Server::start(&spec, Duration::from_secs(10)).err().expect("the program exits at once");
        assert!(error.to_string().starts_with("the server gone died"));
    }

    #[test]
    fn a_server_that_never_listens_runs_into_the_deadline() {
        let spec = "mute=sleep 1{port}".parse().expect("it is valid");
        let error = Server::start(&spec, Duration::from_millis(100)).err().expect("the program does not listen");
        assert!(format!("{error:#}").contains("deadline"), "{error:#}");
    }
}

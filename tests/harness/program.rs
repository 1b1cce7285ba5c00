//! Resources for tests that run other programs: checks for installed programs, temporary directories, free ports.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpSocket};

use super::App;

/// Reports that a program is not installed, so its test is skipped. Prints one line directly to standard error, which
/// the test runner does not capture. Panics in CI, where every program must be installed.
pub fn skip<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what} is not installed, but CI must have it");
    std::io::stderr().write_all(format!("skipped: {what} is not installed\n").as_bytes()).unwrap();
    None
}

/// Whether a program is installed. `version` is a command that prints the program's version. If the program is not
/// installed, prints that the test is skipped.
pub fn is_installed(name: &str, version: &mut Command) -> bool {
    match version.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => skip(name).unwrap_or(false),
        asked => asked.expect("the program starts").success(),
    }
}

/// The path of a file in `deploy/`.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// A free port.
pub struct Port {
    pub address: SocketAddr,
    /// Reserves the port. This socket is bound but not listening, so the system does not choose the port for another
    /// socket. A program can still listen on the port, because on Linux `SO_REUSEADDR` on both sockets allows that.
    _held: TcpSocket,
}

impl Port {
    pub fn free() -> Self {
        let held = Self::bind("127.0.0.1:0".parse().unwrap());
        Self { address: held.local_addr().unwrap(), _held: held }
    }

    fn bind(address: SocketAddr) -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).expect("no other socket listens on the port");
        socket
    }

    /// Listens on the port. Before this call, the system refuses connections to the port.
    pub fn listen(&self) -> TcpListener {
        Self::bind(self.address).listen(16).expect("no other socket listens on the port")
    }

    /// Starts a server on the port.
    pub async fn serve(&self) -> App {
        App::in_memory(|config| config.listen = self.address).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A temporary directory. Dropping this value removes the directory. It is not below the target directory, whose path
/// may exceed the length limit of a Unix socket's path.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("oddswire-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! What a test needs to run a program: whether it is there, a directory, and a port.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpSocket};

use super::App;

/// Passes over what is not installed, and says so in one line past the capture of test output. CI has all of it.
pub fn skip<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what} is not installed, and CI needs it");
    std::io::stderr().write_all(format!("skipped: {what} is not installed\n").as_bytes()).unwrap();
    None
}

/// Whether a program is installed, by a command that asks it for its version. If not, that is said.
pub fn is_installed(name: &str, version: &mut Command) -> bool {
    match version.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => skip(name).unwrap_or(false),
        asked => asked.expect("the program starts").success(),
    }
}

/// A file of `deploy/`.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// A free port.
pub struct Port {
    pub address: SocketAddr,
    /// Holds it: bound and never listening, it keeps the system from giving the port to anybody who does not ask for it by
    /// number, and does not hinder the program, since on Linux `SO_REUSEADDR` of both lets it listen.
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
        socket.bind(address).expect("nobody else listens on the port");
        socket
    }

    /// Listens on it: until then, who connects is refused.
    pub fn listen(&self) -> TcpListener {
        Self::bind(self.address).listen(16).expect("nobody else listens on the port")
    }

    /// A server on it.
    pub async fn serve(&self) -> App {
        App::in_memory(|config| config.listen = self.address).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A directory that is removed with everything in it. Not below the target directory, whose path may be longer than the
/// address of a Unix socket can be.
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

//! A listening socket. After an error it continues to accept connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info, warn};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection;
use crate::metrics::Metrics;

/// The maximum number of connections that the kernel queues until the server accepts them. With the usual 128, a burst
/// of 200 concurrent connects overflowed the queue. The clients repeated each dropped connect after a second (measured:
/// 4.6k connects a second instead of 17k and more).
const BACKLOG: u32 = 4096;
/// The maximum number of bytes that the kernel queues for one client; the kernel adds as many for its own needs. By
/// default the kernel queues up to 4 MB for a slow client. The memory budget does not cover these bytes, and a ping
/// would wait behind them for a quarter of a minute.
const SEND_BUFFER: u32 = 128 << 10;
/// The kernel sends a keep-alive probe on a connection after this time without traffic, then every [`PROBE_INTERVAL`].
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The pause before the next attempt after an error such as too many open files. The kernel does not report when a file
/// descriptor becomes free, and attempts without a pause would keep a CPU busy.
const RETRY: Duration = Duration::from_millis(100);
/// [`Trouble`] ends after this time without such an error. While the process has too many open files, it can accept a
/// connection whenever another connection ends. Without this time, each accepted connection would cause two log lines.
const CALM: Duration = Duration::from_secs(1);

/// Binds an address and listens on it. Accepted sockets inherit the options of the listening socket.
pub(crate) fn bind(address: SocketAddr, write_timeout: Duration) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A peer may vanish without a FIN or a reset. Keep-alive probes detect this on an idle connection. The user timeout
    // detects it while the peer acknowledges no data.
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL))?;
    connection::set_user_timeout(&options, Some(connection::user_timeout(write_timeout)))?;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    socket.bind(address).map_err(named)?;
    socket.listen(BACKLOG).map_err(named)
}

/// Accepts connections, and continues after errors.
pub(crate) struct Acceptor {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    logger: Logger,
    trouble: Option<Trouble>,
}

/// A period of failed attempts to accept. The log has one line for its beginning and one for its end.
struct Trouble {
    began: Instant,
    latest: Instant,
    errors: u64,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, metrics: Arc<Metrics>, logger: Logger) -> Self {
        Self { listener, metrics, logger, trouble: None }
    }

    /// Waits for the next connection, even after errors.
    pub(crate) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.attempt().await {
                None => self.recovered(),
                Some(Ok(connection)) => {
                    if self.trouble.as_ref().is_some_and(|trouble| trouble.latest.elapsed() >= CALM) {
                        self.recovered();
                    }
                    return connection;
                }
                // The kernel may queue many broken connections, so other tasks get a turn between two attempts.
                Some(Err(error)) if is_of_one_connection(&error) => {
                    self.metrics.accept_failed();
                    tokio::task::yield_now().await;
                }
                Some(Err(error)) => {
                    self.failed(&error);
                    sleep_until(Instant::now() + RETRY).await;
                }
            }
        }
    }

    /// Waits for a connection. Returns `None` if [`CALM`] passes first, which ends the trouble. The kernel looks for a
    /// free file descriptor before it looks for a connection, so it would have reported an error even without a new
    /// connection.
    async fn attempt(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        match &self.trouble {
            None => Some(self.listener.accept().await),
            Some(trouble) => timeout_at(trouble.latest + CALM, self.listener.accept()).await.ok(),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.metrics.accept_failed();
        let now = Instant::now();
        let trouble = self.trouble.get_or_insert_with(|| {
            warn!(self.logger, "server.accept_failed"; "error" => %error,
                "address" => self.listener.local_addr().ok().map(|address| address.to_string()));
            Trouble { began: now, latest: now, errors: 0 }
        });
        trouble.latest = now;
        trouble.errors += 1;
    }

    fn recovered(&mut self) {
        let Some(Trouble { began, latest, errors }) = self.trouble.take() else { return };
        info!(self.logger, "server.accept_recovered"; "errors" => errors,
            "duration" => (latest - began).as_secs_f64(),
            "address" => self.listener.local_addr().ok().map(|address| address.to_string()));
    }
}

/// Whether an error concerns only the connection that `accept` would have returned; the next connection may be fine.
/// Linux reports network errors of a new connection as errors of `accept`, and asks callers to try again (`accept(2)`,
/// "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    const ERRORS: &[i32] = &[
        libc::ECONNABORTED,
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::EINTR,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        #[cfg(target_os = "linux")]
        libc::ENONET,
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
        libc::EPROTO,
        libc::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|code| ERRORS.contains(&code))
}

#[cfg(test)]
mod tests {
    use slog::{Discard, o};

    use super::*;

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options_of_the_listener() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Duration::from_secs(20)).unwrap();
        let metrics = Arc::new(Metrics::default());
        let mut acceptor = Acceptor::new(listener, metrics, Logger::root(Discard, o!()));
        let address = acceptor.listener.local_addr().unwrap();
        let (_client, (accepted, _)) = tokio::join!(TcpStream::connect(address), acceptor.accept());
        let options = SockRef::from(&accepted);
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(options.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
        assert_eq!(options.tcp_user_timeout().unwrap(), Some(Duration::from_secs(50)));
    }

    #[test]
    fn network_errors_of_a_new_connection_concern_it_alone() {
        let codes = [
            ("ECONNABORTED", 103),
            ("ECONNREFUSED", 111),
            ("ECONNRESET", 104),
            ("EHOSTDOWN", 112),
            ("EHOSTUNREACH", 113),
            ("EINTR", 4),
            ("ENETDOWN", 100),
            ("ENETUNREACH", 101),
            ("ENONET", 64),
            ("ENOPROTOOPT", 92),
            ("EOPNOTSUPP", 95),
            ("EPROTO", 71),
            ("ETIMEDOUT", 110),
        ];
        for (name, code) in codes {
            assert!(is_of_one_connection(&io::Error::from_raw_os_error(code)), "{name}");
        }
    }

    #[test]
    fn shortages_and_errors_of_the_listener_are_waited_out() {
        let codes = [("EMFILE", 24), ("ENFILE", 23), ("ENOBUFS", 105), ("ENOMEM", 12), ("EPERM", 1), ("EINVAL", 22)];
        for (name, code) in codes {
            assert!(!is_of_one_connection(&io::Error::from_raw_os_error(code)), "{name}");
        }
        assert!(!is_of_one_connection(&io::Error::other("not of the system")));
    }
}

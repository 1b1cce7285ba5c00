//! One accepted TCP connection. hyper serves HTTP/1.1 until the connection ends or becomes a WebSocket.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use slog::{Logger, debug};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::reply::Response;

use crate::host::{self, HostError};

/// The type of the stream that hyper uses, and that an upgrade to WebSocket returns.
pub(crate) type Io = TokioIo<WriteDeadline>;

/// The peer's address. Each request has it as an extension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Why a request's host is invalid. The routes refuse a request with this extension.
#[derive(Debug, Clone)]
pub(crate) struct InvalidHost(pub(crate) HostError);

/// The limits that apply to each connection.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) header_timeout: Duration,
    pub(crate) header_bytes: usize,
    pub(crate) write_timeout: Duration,
}

/// A warp filter that answers every request.
pub(crate) trait Routes:
    Filter<Extract = (Response,), Error = std::convert::Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<F> Routes for F where
    F: Filter<Extract = (Response,), Error = std::convert::Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

/// Serves requests until the connection ends. When the server drains, finishes the current request and then closes the
/// connection.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    routes: impl Routes,
    options: Options,
    draining: CancellationToken,
    logger: Logger,
) {
    let stream = WriteDeadline::new(stream, options.write_timeout);
    let has_waited = Arc::clone(&stream.has_waited);
    let routes = TowerToHyperService::new(warp::service(routes));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        if let Err(error) = host::check(&mut request) {
            request.extensions_mut().insert(InvalidHost(error));
        }
        let was_there = !has_waited.swap(false, Ordering::Relaxed);
        let response = routes.call(request);
        async move {
            if was_there {
                // hyper answers 16 requests that have already arrived before it yields. During that time other
                // connections could wait too long.
                tokio::task::yield_now().await;
            }
            response.await
        }
    });
    // A connection that arrives while the server drains gets one response; then hyper closes it.
    let late = draining.is_cancelled();
    let io = TokioIo::new(stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(!late)
        .header_read_timeout(options.header_timeout)
        .max_buf_size(options.header_bytes)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = draining.cancelled(), if !late => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(logger, "http.broken"; "peer" => %peer, "error" => %error);
    }
}

/// The maximum time that a connection stays open after the last response while the peer still sends.
const LINGER: Duration = Duration::from_secs(5);
/// The maximum number of bytes that the peer may send during [`LINGER`]. A publish body of the default limit fits.
const LINGER_BYTES: usize = 32 << 20;
/// The size of the buffer for bytes that are read and dropped during [`LINGER`].
const LINGER_BUFFER: usize = 8 << 10;

/// The user timeout is `write-timeout` plus this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// After this time without a waiting write, the server sets the user timeout again.
const UNBLOCKED: Duration = Duration::from_secs(30);

/// The user timeout (`TCP_USER_TIMEOUT`): after this time without an acknowledgement, the kernel ends the connection.
/// By default the kernel retries for about 15 minutes.
pub(crate) fn user_timeout(write_timeout: Duration) -> Duration {
    write_timeout + UNACKNOWLEDGED
}

pub(crate) fn set_user_timeout(socket: &SockRef<'_>, timeout: Option<Duration>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(timeout)?;
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, timeout);
    Ok(())
}

/// A TCP stream whose writes fail if the peer takes no byte within the timeout. hyper has no such timeout: if the
/// client does not read, hyper would keep the response for ever.
#[derive(Debug)]
pub(crate) struct WriteDeadline {
    stream: TcpStream,
    timeout: Duration,
    /// A read that waits for the peer sets this flag, each request clears it. A request that finds it cleared had already
    /// arrived when the server answered the last request.
    has_waited: Arc<AtomicBool>,
    /// The timer for `timeout`. It runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// When a write last waited. `Some` while the user timeout is off because of waiting writes.
    blocked: Option<Instant>,
    /// The timer for [`LINGER`]. It runs once the last response is written.
    lingering: Option<Pin<Box<Sleep>>>,
    /// Bytes read and dropped during [`LINGER`].
    dropped: usize,
}

impl WriteDeadline {
    fn new(stream: TcpStream, timeout: Duration) -> Self {
        Self { stream, timeout, has_waited: Arc::default(), waiting: None, blocked: None, lingering: None, dropped: 0 }
    }

    /// Returns the stream for a WebSocket session. The session sends pings to detect a peer that has vanished.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.limit_acknowledgements(None);
        self.stream
    }

    /// Sets the user timeout, or turns it off.
    ///
    /// Linux (since 5.11) also counts the time in which the peer's receive window is too small for the next segment,
    /// although the peer acknowledges each probe. A client that reads 4 KiB/s was reset after two minutes (measured).
    /// So the user timeout is off while writes wait. During that time `write-timeout` applies.
    fn limit_acknowledgements(&self, timeout: Option<Duration>) {
        // The call fails only on a closed socket.
        let _ = set_user_timeout(&SockRef::from(&self.stream), timeout);
    }

    /// Sets the user timeout again, before a write. See [`UNBLOCKED`].
    fn unblock(&mut self) {
        if self.blocked.is_some_and(|blocked| self.waiting.is_none() && blocked.elapsed() >= UNBLOCKED) {
            self.blocked = None;
            self.limit_acknowledgements(Some(user_timeout(self.timeout)));
        }
    }

    /// Turns the user timeout off, because a write waits.
    fn block(&mut self) {
        if self.blocked.replace(Instant::now()).is_none() {
            self.limit_acknowledgements(None);
        }
    }

    /// Limits how long a write waits. After the timeout it tries once more, although the kernel has not reported the
    /// socket as writable.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        self.block();
        let timeout = self.timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
        ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        match write_unannounced(&self.stream, buffers) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A reset frees the data that the kernel holds for the peer. The call fails only if the socket is
                // closed.
                let _ = self.stream.set_zero_linger();
                let stalled = "the peer took no data within write-timeout";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
            }
            written => Poll::Ready(written),
        }
    }
}

impl WriteDeadline {
    /// Reads and drops input until the peer ends the connection. The server may send a refusal before it has read the
    /// whole request. If it then closed the connection at once, a reset could overtake the refusal (RFC 9112, section
    /// 9.6).
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let end = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + LINGER)));
        while Instant::now() < end.deadline() && self.dropped < LINGER_BYTES {
            let mut scratch = [MaybeUninit::uninit(); LINGER_BUFFER];
            let mut read = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.dropped += read.filled().len(),
                // The peer ended the connection, in good order or with a reset.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return end.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes to a socket that the kernel has not reported as writable. Linux reports a full socket as writable only once
/// the peer has taken a third of its queue (`sk_stream_is_writeable`), which can be a megabyte on a fast path. A slow
/// peer may take less than that within `write-timeout`. A direct write succeeds once the peer has taken some bytes.
pub(crate) fn write_unannounced(stream: &TcpStream, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
    // A second descriptor of the same socket, also non-blocking. A write through tokio does not call the kernel until
    // the kernel has reported the socket as writable.
    let socket = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    io::Write::write_vectored(&mut &socket, buffers)
}

impl AsyncRead for WriteDeadline {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            self.has_waited.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for WriteDeadline {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.unblock();
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.watch(cx, written, &[io::IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unblock();
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.watch(cx, written, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn user_timeout_is_off_while_writes_wait() {
        const TIMEOUT: Duration = Duration::from_secs(100);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut stream = WriteDeadline::new(accepted.unwrap().0, TIMEOUT);
        let set = |stream: &WriteDeadline| SockRef::from(&stream.stream).tcp_user_timeout().unwrap();
        stream.limit_acknowledgements(Some(user_timeout(TIMEOUT)));
        stream.write_all(b"it takes this").await.unwrap();
        assert_eq!(set(&stream), Some(user_timeout(TIMEOUT)));
        // More bytes than the buffers of both sockets hold.
        assert!(poll!(pin!(stream.write_all(&vec![0; 64 << 20]))).is_pending());
        assert_eq!(set(&stream), None);

        let mut client = client.unwrap();
        let tasks = tokio_util::task::TaskTracker::new();
        let reading = tasks.spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await });
        stream.write_all(b"it takes this").await.unwrap();
        assert_eq!(set(&stream), None, "a write waited a moment ago");
        stream.blocked = stream.blocked.and_then(|blocked| blocked.checked_sub(UNBLOCKED));
        stream.write_all(b"it takes this").await.unwrap();
        assert_eq!(set(&stream), Some(user_timeout(TIMEOUT)));
        assert_eq!(set(&stream).unwrap(), TIMEOUT + UNACKNOWLEDGED);
        drop(stream);
        reading.await.unwrap().unwrap();
    }
}

"""Publisher, for code without asyncio. A background thread runs the courier's event loop.

Invariant: every method may be called from any thread. The lock of the condition `_changed` guards the delivery. It is
held only briefly, never while a caller waits for the server.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from oddswire.courier import CLOSED, Courier
from oddswire.delivery import Delivery
from oddswire.errors import BroadcastError, FlushTimeout, OddswireError, Problem
from oddswire.message import Message
from oddswire.options import Options
from oddswire.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from datetime import datetime
    from types import TracebackType

    import httpx

    from oddswire.errors import DeliveryError, Undelivered
    from oddswire.stats import Stats

logger = logging.getLogger("oddswire")

# How long the thread may take to end after it was told to end, in seconds. It then only calls the remaining callbacks.
THREAD_GRACE = 5.0


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that can still resolve host names while the interpreter exits. At that time, a program that ended
    without `close` sends its remaining messages, but asyncio's own threads for name resolution are already gone."""

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        try:
            return await super().getaddrinfo(host, port, **hints)
        except RuntimeError:
            # This call blocks the thread, which has nothing else to do. `close` waits for the thread only until its
            # timeout.
            return socket.getaddrinfo(host, port, **hints)


class Publisher:
    """Publishes to an oddswire server from a background thread.

    with Publisher("http://localhost:8000", token) as publisher:
        publisher.publish("odds_updates", {"home": 1.85}, key="8301/1x2/betpawa")

    `publish` only queues a message. Leaving the context sends the remaining messages, and raises DeliveryError if a
    message could not be delivered. `on_undelivered` gets each such message. `on_new_epoch` gets the old and the new
    epoch when the server has lost its sequence (a restart with the engine `memory`). The caller should then publish the
    full state again. The background thread calls both functions, and sends nothing while they run. `http` makes the
    httpx.AsyncClient, for example with your own certificates or proxy.
    """

    def __init__(
        self,
        url: str,
        token: str,
        options: Options | None = None,
        *,
        on_undelivered: Callable[[Undelivered], None] | None = None,
        on_new_epoch: Callable[[str, str], None] | None = None,
        http: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        self._options = options or Options()
        self._server = Server(url, token, self._options.request_timeout, http)
        self._delivery = Delivery(self._options)
        self._changed = threading.Condition(threading.Lock())
        self._courier = Courier(self._server, self._delivery, self._changed, self._notify, on_undelivered, on_new_epoch)
        self._process = os.getpid()
        self._ended = False
        self._loop = _Loop()
        self._task = self._loop.create_task(self._courier.run())
        self._thread = threading.Thread(target=self._run, name="oddswire-publisher", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def publish(
        self,
        topic: str,
        data: object,
        key: str | None = None,
        type: str | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Queues a message. `data` is anything that json.dumps accepts, except NaN and infinity, or bytes of JSON that
        subscribers get unchanged. Raises ValueError or TypeError for invalid arguments, QueueFull, PublisherClosed, or
        Refused once the server refuses this publisher."""
        self._check_process()
        message = Message.of(topic, data, key, type, expires_at)
        with self._changed:
            # Never wait in the courier's own thread: only that thread makes room in the queue.
            waits = self._options.on_full == "block" and threading.current_thread() is not self._thread
            timeout = self._options.block_timeout if waits else 0.0
            if not self._changed.wait_for(lambda: self._delivery.offer(message, time.monotonic()), timeout):
                raise self._delivery.full()
            self._rouse()

    def broadcast(self, type: str, data: object) -> int:
        """Sends a broadcast to every connected client at once, without the queue, and returns the number of clients.
        Raises BroadcastError if the server does not confirm the broadcast; there is no retry. Call `flush` first if the
        broadcast must come after published messages."""
        self._check_process()
        self._check_thread("broadcast")
        with self._changed:
            self._delivery.check_open()
            future: Future[int] = asyncio.run_coroutine_threadsafe(self._courier.broadcast(type, data), self._loop)
        try:
            return future.result(self._options.request_timeout + THREAD_GRACE)
        except (TimeoutError, asyncio.TimeoutError, asyncio.CancelledError):
            future.cancel()
            raise BroadcastError(Problem("closed", "the publisher was closed before the answer came")) from None

    def flush(self, timeout: float | None = None) -> None:
        """Waits until the server has confirmed all messages published so far; they no longer wait for the window.
        Raises FlushTimeout after `timeout` seconds (the messages stay queued). Raises DeliveryError if a message was
        reported as undelivered since the last flush."""
        self._check_process()
        self._check_thread("flush")
        with self._changed:
            mark = self._delivery.mark()
            self._rouse()
            if not self._changed.wait_for(lambda: self._ended or self._delivery.is_settled(mark), timeout):
                raise FlushTimeout(self._delivery.late(timeout))
            failures = self._delivery.take_failures()
        if failures is not None:
            raise failures

    def close(self, timeout: float | None = None) -> None:
        """Sends the remaining messages for at most `timeout` seconds (by default `close_timeout`), and ends the thread.
        Raises DeliveryError if a message is undelivered. A call that is interrupted ends at once, and reports the
        remaining messages as undelivered. A second call does nothing. A call in a forked process does nothing
        either."""
        if os.getpid() != self._process:
            return
        self._check_thread("close")
        try:
            failures = self._finish(self._options.close_timeout if timeout is None else timeout)
            self._thread.join(THREAD_GRACE)
        finally:
            # Do this after an interrupt, too, so that the program's exit does not wait again.
            atexit.unregister(self._close_at_exit)
        if failures is not None:
            raise failures

    @property
    def stats(self) -> Stats:
        """The current counts."""
        self._check_process()
        with self._changed:
            return self._delivery.stats()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OddswireError:
            # Do not hide an error from inside the context. The error of `close` is in the log.
            if error is None:
                raise

    def __repr__(self) -> str:
        """Shows the URL and the state, without the token."""
        return f"<Publisher {self._server.url} {'closed' if self._ended else 'open'}>"

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(asyncio.wait([self._task]))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._loop.close()

    def _finish(self, timeout: float) -> DeliveryError | None:
        """Takes no more messages, and waits until the remaining ones are sent or reported as undelivered."""
        with self._changed:
            self._delivery.close()
            self._rouse()
            # Wake the callers that wait for room in the queue: the publisher is closed, so they get an error.
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._ended, timeout)
            finally:
                # Do this after an interrupt, too: the remaining messages are then lost, so they must be reported.
                if not self._ended:
                    self._delivery.fail(CLOSED)
                    self._loop.call_soon_threadsafe(self._task.cancel)
                    self._changed.wait_for(lambda: self._ended, THREAD_GRACE)
            return self._delivery.take_failures()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _rouse(self) -> None:
        """Wakes the courier if it has something new to do. The caller holds the lock."""
        if not self._ended and self._delivery.rouse(time.monotonic()):
            self._loop.call_soon_threadsafe(self._courier.wake)

    def _check_process(self) -> None:
        """Refuses calls in a forked process: such a process inherits the publisher but not the thread, so it would
        never send anything."""
        if os.getpid() != self._process:
            raise RuntimeError("this publisher belongs to the parent process: make one in each process")

    def _check_thread(self, what: str) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{what} in a callback of the publisher would wait for itself: call it outside")

    def _close_at_exit(self) -> None:
        """Sends the remaining messages if the program did not call `close`, and logs the messages that it could not
        send."""
        try:
            self.close()
        except OddswireError as error:
            logger.error("closed at exit: %s", error)

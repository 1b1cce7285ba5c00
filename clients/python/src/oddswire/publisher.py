"""Publisher: for code that is not asynchronous. A thread of its own runs the courier's loop.

Invariant: every method may be called from any thread. The condition's lock guards the delivery; it is held for moments,
never while something waits for the server.
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

# How long the thread may take to end once it was told to: it only has callbacks left to make.
THREAD_GRACE = 5.0


class _Loop(asyncio.SelectorEventLoop):
    """A loop that can still look up names while the interpreter ends: the threads that asyncio has for that are gone
    by then, and what a program has left to send when it ends without `close` goes out only then."""

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        try:
            return await super().getaddrinfo(host, port, **hints)
        except RuntimeError:
            # Blocks this thread, which has nothing else to do; `close` stops waiting for it in time.
            return socket.getaddrinfo(host, port, **hints)


class Publisher:
    """Publishes to an oddswire server from a background thread.

    with Publisher("http://localhost:8000", token) as publisher:
        publisher.publish("odds_updates", {"home": 1.85}, key="8301/1x2/betpawa")

    `publish` only queues; leaving the context sends what is left and raises DeliveryError if something could not be
    delivered. `on_undelivered` gets each such message, `on_new_epoch` the old and the new epoch when the server has
    lost its sequence (a restart with the engine `memory`): then publish the full state again. Both are called in the
    background thread and hold up the sending while they run. `http` makes the httpx.AsyncClient, for those who need
    certificates or a proxy of their own.
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
        """Queues a message. Data is anything that json.dumps takes, without NaN and infinity, or bytes that are JSON
        already and go to subscribers as they are. Raises ValueError or TypeError for what cannot be right, QueueFull,
        PublisherClosed, or Refused once the server refuses this publisher."""
        self._check_process()
        message = Message.of(topic, data, key, type, expires_at)
        with self._changed:
            # In the courier's own thread nobody would make room while this waits.
            waits = self._options.on_full == "block" and threading.current_thread() is not self._thread
            timeout = self._options.block_timeout if waits else 0.0
            if not self._changed.wait_for(lambda: self._delivery.offer(message, time.monotonic()), timeout):
                raise self._delivery.full()
            self._rouse()

    def broadcast(self, type: str, data: object) -> int:
        """Sends to every connected client at once, past the queue, and returns how many there were. Not tried again;
        raises BroadcastError when it is not confirmed. `flush` first if it has to come after what was published."""
        self._check_process()
        self._check_thread("broadcast")
        with self._changed:
            self._delivery.check_open()
            future: Future[int] = asyncio.run_coroutine_threadsafe(self._courier.broadcast(type, data), self._loop)
        try:
            return future.result(self._options.request_timeout + THREAD_GRACE)
        except (TimeoutError, asyncio.TimeoutError, asyncio.CancelledError):
            future.cancel()
            raise BroadcastError(Problem("closed", "the publisher was closed meanwhile")) from None

    def flush(self, timeout: float | None = None) -> None:
        """Waits until everything that was published before is confirmed, without waiting for company. Raises
        FlushTimeout after `timeout` seconds (what waits stays queued), and DeliveryError if something published since
        the last flush is undelivered."""
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
        """Sends what is left for at most `timeout` seconds (by default `close_timeout`), and ends the thread. Raises
        DeliveryError if something is undelivered. Interrupted meanwhile, it ends at once, and what is left is reported
        as undelivered. A second call does nothing; nor does one in a fork, where there is nothing to close."""
        if os.getpid() != self._process:
            return
        self._check_thread("close")
        try:
            failures = self._finish(self._options.close_timeout if timeout is None else timeout)
            self._thread.join(THREAD_GRACE)
        finally:
            # Also after an interrupt: the end of the program then does not wait once more.
            atexit.unregister(self._close_at_exit)
        if failures is not None:
            raise failures

    @property
    def stats(self) -> Stats:
        """What has been done so far, as of now."""
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
            # An error that is on its way already says more than what came of it; the log has this one.
            if error is None:
                raise

    def __repr__(self) -> str:
        """The URL and the state, without the token."""
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
        """Takes nothing more, and waits until what is left is sent, or is reported as undelivered."""
        with self._changed:
            self._delivery.close()
            self._rouse()
            # Who waits for room gets none any more.
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._ended, timeout)
            finally:
                # Also when an interrupt ends the wait: what is left is lost then, and not in silence.
                if not self._ended:
                    self._delivery.fail(CLOSED)
                    self._loop.call_soon_threadsafe(self._task.cancel)
                    self._changed.wait_for(lambda: self._ended, THREAD_GRACE)
            return self._delivery.take_failures()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _rouse(self) -> None:
        """Wakes the courier if it has something new to do. Under the lock."""
        if not self._ended and self._delivery.rouse(time.monotonic()):
            self._loop.call_soon_threadsafe(self._courier.wake)

    def _check_process(self) -> None:
        """A fork has the publisher, but not its thread: nothing would ever be sent."""
        if os.getpid() != self._process:
            raise RuntimeError("this publisher belongs to the process that forked: make one in each process")

    def _check_thread(self, what: str) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{what} in a callback of the publisher would wait for itself")

    def _close_at_exit(self) -> None:
        """For those who forget: what can still be sent is sent, and what cannot be is in the log."""
        try:
            self.close()
        except OddswireError as error:
            logger.error("closed at exit: %s", error)

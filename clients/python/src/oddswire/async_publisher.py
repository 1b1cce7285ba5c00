"""AsyncPublisher, for asyncio. The courier is a task on the event loop that enters the publisher.

Invariant: all code runs on that one loop, so the delivery needs no lock. A cancelled call leaves the delivery
unchanged.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from oddswire.courier import CLOSED, Courier
from oddswire.delivery import Delivery
from oddswire.errors import FlushTimeout, OddswireError, PublisherClosed
from oddswire.message import Message
from oddswire.options import Options
from oddswire.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    import httpx

    from oddswire.errors import Undelivered
    from oddswire.stats import Stats


class AsyncPublisher:
    """Publishes to an oddswire server from an asyncio loop.

    async with AsyncPublisher("http://localhost:8000", token) as publisher:
        await publisher.publish("odds_updates", {"home": 1.85}, key="8301/1x2/betpawa")

    A publisher belongs to the loop that entered it. The callbacks are plain functions and must not block. Everything
    else works as in Publisher.
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
        self._courier = Courier(self._server, self._delivery, nullcontext(), self._notify, on_undelivered, on_new_epoch)
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()

    def publish_nowait(
        self,
        topic: str,
        data: object,
        key: str | None = None,
        type: str | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Queues a message without waiting, for example in a callback on the loop. If the queue is full, raises
        QueueFull at once."""
        message = Message.of(topic, data, key, type, expires_at)
        if not self._offer(message):
            raise self._delivery.full()

    async def publish(
        self,
        topic: str,
        data: object,
        key: str | None = None,
        type: str | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Queues a message; see Publisher.publish. A call that is cancelled while it waits for room queues nothing."""
        message = Message.of(topic, data, key, type, expires_at)
        if self._offer(message):
            return
        waits = self._options.on_full == "block"
        if not waits or not await self._until(lambda: self._offer(message), self._options.block_timeout):
            raise self._delivery.full()

    async def broadcast(self, type: str, data: object) -> int:
        """Sends a broadcast to every connected client at once, without the queue; see Publisher.broadcast."""
        self._running()
        self._delivery.check_open()
        return await self._courier.broadcast(type, data)

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until the server has confirmed all messages published so far; see Publisher.flush."""
        self._running()
        mark = self._delivery.mark()
        self._rouse()
        if not await self._until(lambda: self._delivery.is_settled(mark), timeout):
            raise FlushTimeout(self._delivery.late(timeout))
        self._raise_failures()

    async def close(self, timeout: float | None = None) -> None:
        """Sends the remaining messages for at most `timeout` seconds; see Publisher.close. A call that is cancelled
        ends at once, and reports the remaining messages as undelivered."""
        if self._task is None:
            self._delivery.close()
            return
        task = self._running()
        self._delivery.close()
        self._rouse()
        # Wake the callers that wait for room in the queue: the publisher is closed, so they get an error.
        self._notify()
        try:
            await asyncio.wait([task], timeout=self._options.close_timeout if timeout is None else timeout)
        finally:
            if not task.done():
                # Call `fail` before `cancel`: before Python 3.12 a cancellation can get lost in asyncio.wait_for.
                self._delivery.fail(CLOSED)
                task.cancel()
                await asyncio.wait([task])
        self._raise_failures()

    @property
    def stats(self) -> Stats:
        """The current counts."""
        return self._delivery.stats()

    async def __aenter__(self) -> AsyncPublisher:
        if self._task is not None:
            raise RuntimeError("a publisher can be entered only once: make a new one")
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._courier.run(), name="oddswire-publisher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except OddswireError:
            # Do not hide an error from inside the context. The error of `close` is in the log.
            if error is None:
                raise

    def __repr__(self) -> str:
        """Shows the URL and the state, without the token."""
        state = "not entered" if self._task is None else "closed" if self._task.done() else "open"
        return f"<AsyncPublisher {self._server.url} {state}>"

    def _running(self) -> asyncio.Task[None]:
        """The courier's task. Raises an error if the caller runs on another loop."""
        if self._task is None:
            raise PublisherClosed("the publisher is not open: use 'async with'")
        if os.getpid() != self._process or asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this publisher belongs to another event loop: make one for each loop and process")
        return self._task

    def _offer(self, message: Message) -> bool:
        self._running()
        taken = self._delivery.offer(message, time.monotonic())
        if taken:
            self._rouse()
        return taken

    def _rouse(self) -> None:
        if self._delivery.rouse(time.monotonic()):
            self._courier.wake()

    def _notify(self) -> None:
        """Wakes all callers that wait for progress, once."""
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def _until(self, holds: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until `holds` returns True, like Condition.wait_for in Publisher. Returns False after the timeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not holds():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            try:
                await asyncio.wait_for(self._progress.wait(), left)
            except asyncio.TimeoutError:
                continue
        return True

    def _raise_failures(self) -> None:
        failures = self._delivery.take_failures()
        if failures is not None:
            raise failures

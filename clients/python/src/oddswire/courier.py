"""Sends the batches of a Delivery to the server, on an asyncio loop. AsyncPublisher uses the caller's loop, Publisher
uses the loop of its background thread.

Invariant: the lock guards the Delivery and is never held across an await or a callback.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import math
import time
from typing import TYPE_CHECKING

from oddswire.answer import Answered, problem_of
from oddswire.delivery import Done, Send, Wait
from oddswire.errors import BroadcastError, Problem
from oddswire.message import check_type, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from oddswire.delivery import Batch, Delivery
    from oddswire.errors import Undelivered
    from oddswire.server import Server

logger = logging.getLogger("oddswire")

# The problem to report for messages that are still unsent when a publisher must end.
CLOSED = Problem("closed", "the publisher was closed before this could be sent")


class Courier:
    """Repeats three things: gets the next step from the Delivery, does the step, and reports the outcome to the
    Delivery."""

    def __init__(
        self,
        server: Server,
        delivery: Delivery,
        lock: AbstractContextManager[object],
        on_progress: Callable[[], None],
        on_undelivered: Callable[[Undelivered], None] | None,
        on_new_epoch: Callable[[str, str], None] | None,
    ) -> None:
        for callback in (on_undelivered, on_new_epoch):
            if inspect.iscoroutinefunction(callback):
                raise TypeError(f"{callback.__name__} is a coroutine function: expected a plain function")
        self._server = server
        self._delivery = delivery
        self._lock = lock
        self._on_progress = on_progress
        self._on_undelivered = on_undelivered
        self._on_new_epoch = on_new_epoch
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Makes `run` ask for the next step now. Call this only from the event loop's own thread."""
        self._wake.set()

    async def run(self) -> None:
        """Sends batches until the delivery is done. However this ends, every published message is confirmed or
        reported."""
        try:
            async with self._server:
                await self._work()
        except asyncio.CancelledError:
            self._give_up(CLOSED)
            raise
        except Exception as error:
            self._give_up(Problem("internal", f"{type(error).__name__}: {error}"))
            logger.exception("the publisher for %s failed", self._server.url)

    def _give_up(self, problem: Problem) -> None:
        with self._lock:
            self._delivery.fail(problem)
        self._tell()

    async def _work(self) -> None:
        while True:
            # Clear the event before calling `next`: a message that is published afterwards then ends the next wait.
            self._wake.clear()
            with self._lock:
                step = self._delivery.next(time.monotonic())
            self._tell()
            if isinstance(step, Send):
                await self._deliver(step.batch)
            elif isinstance(step, Wait):
                await self._pause(step.until)
            elif isinstance(step, Done):
                return

    async def _pause(self, until: float) -> None:
        timeout = None if until == math.inf else max(0.0, until - time.monotonic())
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
        except asyncio.TimeoutError:
            return

    async def _deliver(self, batch: Batch) -> None:
        outcome = await self._server.post("/api/publish", batch.body, batch.key)
        with self._lock:
            self._delivery.settle(outcome, time.monotonic())
            problem = self._delivery.last_problem
        count, url = len(batch.slots), self._server.url
        if problem is not None:
            logger.warning("%d messages not taken by %s, attempt %d: %s", count, url, batch.tries, problem)
        elif batch.tries > 1:
            logger.info("%d messages taken by %s, attempt %d", count, url, batch.tries)
        else:
            logger.debug("%d messages taken by %s", count, url)

    def _tell(self) -> None:
        """Passes on reports and new epochs, and then signals progress. So a waiting caller continues only after all
        reports are made."""
        with self._lock:
            reports, epochs = self._delivery.take_reports(), self._delivery.take_new_epochs()
        if reports:
            first = reports[0]
            logger.error("%d undelivered, the first to %s: %s", len(reports), first.message.address, first.problem)
        for report in reports:
            _call(self._on_undelivered, report)
        for old, new in epochs:
            logger.warning("%s began a new epoch %s after %s", self._server.url, new, old)
            _call(self._on_new_epoch, old, new)
        self._on_progress()

    async def broadcast(self, type: str, data: object) -> int:
        """Sends a broadcast to every connected client, and returns the number of clients."""
        check_type(type)
        head = json.dumps({"type": type}, ensure_ascii=False)[:-1]
        body = head.encode() + b',"data":' + encode(data) + b"}"
        outcome = await self._server.post("/api/broadcast", body)
        if isinstance(outcome, Answered) and outcome.status == 200:
            return _connections(outcome)
        raise BroadcastError(problem_of(outcome))


def _connections(answer: Answered) -> int:
    try:
        return int(json.loads(answer.body)["connections"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BroadcastError(Problem("not_oddswire", "this answer is not from oddswire", answer.status)) from None


def _call(callback: Callable[..., None] | None, *arguments: object) -> None:
    """Calls a callback. Logs an exception of the callback, so that the exception does not stop the delivery."""
    if callback is None:
        return
    try:
        callback(*arguments)
    except Exception:
        logger.exception("a callback of the publisher failed")

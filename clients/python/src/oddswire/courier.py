"""Carries the batches of a Delivery to the server, on an asyncio loop: the caller's for AsyncPublisher, that of a
thread of its own for Publisher.

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

# What is said of messages that are left when a publisher has to end.
CLOSED = Problem("closed", "the publisher was closed before this could be sent")


class Courier:
    """One loop: ask what is next, do it, say what came of it."""

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
                raise TypeError(f"{callback.__name__} is a coroutine function: callbacks are called, not awaited")
        self._server = server
        self._delivery = delivery
        self._lock = lock
        self._on_progress = on_progress
        self._on_undelivered = on_undelivered
        self._on_new_epoch = on_new_epoch
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Lets the loop look again. Only from its own thread."""
        self._wake.set()

    async def run(self) -> None:
        """Works until the delivery is done. However it ends, everything that was published is accounted for."""
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
            # Cleared before the question: what is published after it wakes the wait that follows.
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
            logger.warning("%d messages for %s not taken at try %d: %s", count, url, batch.tries, problem)
        elif batch.tries > 1:
            logger.info("%d messages for %s taken at try %d", count, url, batch.tries)
        else:
            logger.debug("%d messages for %s taken", count, url)

    def _tell(self) -> None:
        """Passes on what the delivery has to say. Reports come first: who waits for the progress finds them made."""
        with self._lock:
            reports, epochs = self._delivery.take_reports(), self._delivery.take_new_epochs()
        if reports:
            first = reports[0]
            logger.error("%d undelivered, the first to %s: %s", len(reports), first.message.address, first.problem)
        for report in reports:
            _call(self._on_undelivered, report)
        for old, new in epochs:
            logger.warning("%s began the sequence %s after %s", self._server.url, new, old)
            _call(self._on_new_epoch, old, new)
        self._on_progress()

    async def broadcast(self, type: str, data: object) -> int:
        """Sends to every connected client; returns how many there were."""
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
        raise BroadcastError(Problem("not_oddswire", "what answered is not oddswire", answer.status)) from None


def _call(callback: Callable[..., None] | None, *arguments: object) -> None:
    """Calls back; what goes wrong there must not keep messages from being delivered."""
    if callback is None:
        return
    try:
        callback(*arguments)
    except Exception:
        logger.exception("a callback of the publisher failed")

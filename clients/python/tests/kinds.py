"""Both publishers behind one interface, so that each test checks both."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol, TypeVar

from hub import TOKEN, WITHIN
from oddswire import AsyncPublisher, DeliveryError, Options, Publisher, Stats, Undelivered

T = TypeVar("T")


class AnyPublisher(Protocol):
    """The interface of both publishers."""

    @property
    def stats(self) -> Stats: ...

    def publish(
        self,
        topic: str,
        data: object,
        key: str | None = None,
        type: str | None = None,
        expires_at: datetime | None = None,
    ) -> None: ...

    def broadcast(self, type: str, data: object) -> int: ...

    def flush(self, timeout: float | None = None) -> None: ...

    def close(self, timeout: float | None = None) -> None: ...


class Blocking:
    """An AsyncPublisher on a loop in a thread, with blocking methods."""

    def __init__(self, url: str, token: str, options: Options, **callbacks: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._publisher = AsyncPublisher(url, token, options, **callbacks)
        self._wait(self._publisher.__aenter__())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * WITHIN)

    @property
    def stats(self) -> Stats:
        return self._publisher.stats

    def publish(
        self,
        topic: str,
        data: object,
        key: str | None = None,
        type: str | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        self._wait(self._publisher.publish(topic, data, key, type, expires_at))

    def broadcast(self, type: str, data: object) -> int:
        return self._wait(self._publisher.broadcast(type, data))

    def flush(self, timeout: float | None = None) -> None:
        self._wait(self._publisher.flush(timeout))

    def close(self, timeout: float | None = None) -> None:
        self._wait(self._publisher.close(timeout))

    def end(self) -> None:
        """Ends the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN)
        self._loop.close()


class Publishers:
    """Makes publishers of one kind, collects their reports, and closes them at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.undelivered: list[Undelivered] = []
        self.epochs: list[tuple[str, str]] = []
        self._made: list[AnyPublisher] = []

    def __call__(self, url: str, token: str = TOKEN, **options: Any) -> AnyPublisher:
        make: Callable[..., AnyPublisher] = Publisher if self.kind == "sync" else Blocking
        publisher = make(
            url,
            token,
            # Short pauses: the long default pauses are for busy servers and would only slow the tests.
            Options(**{"backoff": 0.01, "backoff_max": 0.05, "window": 0.005, **options}),
            on_undelivered=self.undelivered.append,
            on_new_epoch=lambda old, new: self.epochs.append((old, new)),
        )
        self._made.append(publisher)
        return publisher

    def close(self) -> None:
        """Closes all publishers that were made."""
        for publisher in self._made:
            with suppress(DeliveryError):
                publisher.close(0.0)
            if isinstance(publisher, Blocking):
                publisher.end()


class Log(logging.Handler):
    """Collects the log of the package, and waits for lines in it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._changed = threading.Condition()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.lines.append(self.format(record))
            self._changed.notify_all()

    def until(self, part: str, times: int = 1) -> None:
        """Waits until at least `times` lines contain `part`."""
        with self._changed:
            found = self._changed.wait_for(lambda: sum(part in line for line in self.lines) >= times, WITHIN)
            assert found, self.lines

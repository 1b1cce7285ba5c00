"""The options of a publisher, with their units and limits. An Options object checks them when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# How long the server keeps the answer to an Idempotency-Key: five minutes.
SERVER_REMEMBERS = 300.0

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a publisher forms batches, waits and gives up. Times are in seconds, sizes in bytes."""

    batch_messages: int = 500
    """Maximum number of messages in a request."""
    batch_bytes: int = 512 * _KIB
    """Maximum length of a request's body. A longer message is sent alone. By default nginx allows bodies of 1 MiB, and
    the server 8 MiB."""
    window: float = 0.02
    """How long the first message of a batch waits for further messages. While a request is in flight, the next batch
    grows anyway. So the window affects the delay of a single message, not the rate."""
    queue_messages: int = 10_000
    """Maximum number of messages that the server has not answered yet, including those in flight."""
    queue_bytes: int = 32 * _MIB
    """Maximum number of bytes of the messages without an answer."""
    on_full: Literal["block", "raise"] = "block"
    """What `publish` does if the queue is full. "block": it waits for room for `block_timeout`. "raise": it raises
    QueueFull at once."""
    block_timeout: float = 10.0
    """How long `publish` waits for room in the queue before it raises QueueFull."""
    conflate: bool = False
    """A new message replaces the unsent message of the same topic and key, because a superseded price has no value.
    Subscribers then see fewer steps, but never an older value after a newer one."""
    retry_for: float | None = 240.0
    """How long the publisher retries a batch that the server may have taken. The server remembers an Idempotency-Key
    for only five minutes. With None the retries do not end, and the server may take such a batch twice. A batch that
    the server certainly did not take (no connection, 429, 503 `engine_unavailable`) is always retried without end."""
    backoff: float = 0.1
    """Upper limit of the first pause between attempts, which is random. The upper limit doubles with each attempt."""
    backoff_max: float = 10.0
    """Maximum of the upper limit of the random pause. The server's `Retry-After` is added to the pause."""
    retry_after_max: float = 60.0
    """Maximum `Retry-After` that the publisher respects. A longer one counts as this time."""
    request_timeout: float = 10.0
    """Maximum duration of a request, from connecting to the last byte of the answer."""
    close_timeout: float = 15.0
    """How long `close`, and leaving the context, wait for unsent messages to be sent."""

    def __post_init__(self) -> None:
        """Checks the limits. An error names the option, its value and the allowed values."""
        for name in ("batch_messages", "batch_bytes", "queue_messages", "queue_bytes"):
            self._check(name, 1, 2**40, whole=True)
        for name in ("backoff", "backoff_max", "request_timeout"):
            self._check(name, 0.001, 3600)
        for name in ("window", "block_timeout", "retry_after_max", "close_timeout"):
            self._check(name, 0, 3600)
        if self.on_full not in ("block", "raise"):
            raise ValueError(f"invalid on_full {self.on_full!r}: expected 'block' or 'raise'")
        if self.retry_for is not None:
            self._check("retry_for", 0, SERVER_REMEMBERS)
            if self.retry_for + self.request_timeout > SERVER_REMEMBERS:
                raise ValueError(
                    f"invalid retry_for {self.retry_for:g} with request_timeout {self.request_timeout:g}: expected "
                    f"together at most {SERVER_REMEMBERS:g} s, for which the server remembers an Idempotency-Key"
                )

    def _check(self, name: str, least: float, most: float, *, whole: bool = False) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, (int,) if whole else (int, float)) and not isinstance(value, bool)
        if not (is_number and least <= value <= most):
            raise ValueError(
                f"invalid {name} {value!r}: expected {'a whole number, ' if whole else ''}{least:g} to {most:g}"
            )

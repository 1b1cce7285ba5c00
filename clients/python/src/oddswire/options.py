"""Every option of a publisher, with its unit and bound; checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The server keeps the answer to an Idempotency-Key for five minutes.
SERVER_REMEMBERS = 300.0

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a publisher batches, waits and gives up. Times are in seconds, sizes in bytes."""

    batch_messages: int = 500
    """Most messages of a request."""
    batch_bytes: int = 512 * _KIB
    """Longest body of a request; a message that is longer goes alone. nginx takes 1 MiB unless it is told otherwise,
    the server 8 MiB."""
    window: float = 0.02
    """How long the first message of a batch waits for company. While a request is under way the next batch gathers
    anyway, so this matters for how late a single message is, not for the rate."""
    queue_messages: int = 10_000
    """Most messages that wait for the server's answer, those under way included."""
    queue_bytes: int = 32 * _MIB
    """Most bytes of them."""
    on_full: Literal["block", "raise"] = "block"
    """What `publish` does when the queue is full: wait for room for `block_timeout`, or raise QueueFull at once."""
    block_timeout: float = 10.0
    """How long `publish` waits for room; QueueFull then."""
    conflate: bool = False
    """A message takes the place of an unsent one of the same topic and key: a superseded price is worth nothing.
    Subscribers then see fewer steps, never an older value after a newer one."""
    retry_for: float | None = 240.0
    """How long a batch is tried again after a try that may have been taken, because the server remembers an
    Idempotency-Key for five minutes. None goes on for ever, and such a batch may then be taken twice. A batch whose
    tries were certainly not taken (no connection, 429, the server's own 'nothing was taken') is tried for ever."""
    backoff: float = 0.1
    """The first pause between tries is random between 0 and this, and each further one between 0 and twice as much."""
    backoff_max: float = 10.0
    """No pause is longer than this and what `Retry-After` asks for."""
    retry_after_max: float = 60.0
    """Longest `Retry-After` that is believed."""
    request_timeout: float = 10.0
    """How long one request may take, from the connection to the last byte of the answer."""
    close_timeout: float = 15.0
    """How long `close`, and leaving the context, wait for what is unsent."""

    def __post_init__(self) -> None:
        """Checks the bounds; an error names the option, its value and what is allowed."""
        for name in ("batch_messages", "batch_bytes", "queue_messages", "queue_bytes"):
            self._check(name, 1, 2**40, whole=True)
        for name in ("backoff", "backoff_max", "request_timeout"):
            self._check(name, 0.001, 3600)
        for name in ("window", "block_timeout", "retry_after_max", "close_timeout"):
            self._check(name, 0, 3600)
        if self.on_full not in ("block", "raise"):
            raise ValueError(f"on_full is {self.on_full!r}: expected 'block' or 'raise'")
        if self.retry_for is not None:
            self._check("retry_for", 0, SERVER_REMEMBERS)
            if self.retry_for + self.request_timeout > SERVER_REMEMBERS:
                raise ValueError(
                    f"retry_for is {self.retry_for:g} and request_timeout {self.request_timeout:g}: together at most "
                    f"{SERVER_REMEMBERS:g} s, for so long the server remembers what it has taken"
                )

    def _check(self, name: str, least: float, most: float, *, whole: bool = False) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, (int,) if whole else (int, float)) and not isinstance(value, bool)
        if not (is_number and least <= value <= most):
            raise ValueError(
                f"{name} is {value!r}: expected {'a whole number, ' if whole else ''}{least:g} to {most:g}"
            )

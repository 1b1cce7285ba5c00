"""The errors that a caller can distinguish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.message import Message


class OddswireError(Exception):
    """The base of all errors of this package, except ValueError and TypeError for invalid arguments."""


class QueueFull(OddswireError):  # noqa: N818 - named as in the standard library.
    """The message was not queued: the queue is full."""


class PublisherClosed(OddswireError):  # noqa: N818 - a state, not a mistake.
    """The message was not queued: the publisher is closed, or was never opened."""


class FlushTimeout(OddswireError, TimeoutError):  # noqa: N818 - named like its base class TimeoutError.
    """The server did not answer all messages within the timeout. The messages stay queued, and are sent when the server
    is back."""


@dataclass(frozen=True)
class Problem:
    """Why the server did not take a message, in the server's words if it answered."""

    code: str
    """The server's error code, such as `unknown_topic`, or a code of this package. `expired`: `expires_at` passed
    before the message could be sent. `outcome_unknown`: the message was sent, but no answer came. `closed`: the
    publisher was closed before the message could be sent. `internal`: a bug."""
    detail: str
    status: int | None = None
    """The HTTP status, if there was an answer."""

    def __str__(self) -> str:
        """Status, code and detail in one line."""
        return f"{self.code}: {self.detail}" if self.status is None else f"{self.status} {self.code}: {self.detail}"


@dataclass(frozen=True)
class Undelivered:
    """A message that will not be delivered, and the reason."""

    message: Message
    problem: Problem


class Refused(OddswireError):  # noqa: N818 - the server's term.
    """The server refuses all requests of this publisher, because of its token or its URL. The publisher takes no more
    messages."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class BroadcastError(OddswireError):
    """The server did not confirm the broadcast. The broadcast is not retried, because the server could not recognise a
    retry."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class DeliveryError(OddswireError):
    """Messages that `publish` queued will not be delivered. `flush` and `close` raise this error. Each message is in
    one such error."""

    def __init__(self, count: int, first: Sequence[Undelivered]) -> None:
        self.count = count
        """The number of undelivered messages."""
        self.first = tuple(first)
        """The first hundred undelivered messages. `on_undelivered` gets all of them."""
        message, problem = first[0].message, first[0].problem
        super().__init__(f"{count} undelivered, the first to {message.address}: {problem}")

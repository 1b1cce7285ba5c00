"""What goes wrong, as far as a caller tells it apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.message import Message


class OddswireError(Exception):
    """Every error of this package but the ValueError and TypeError of an argument that cannot be right."""


class QueueFull(OddswireError):  # noqa: N818 - named as in the standard library.
    """The message was not taken: as many wait for the server as may wait."""


class PublisherClosed(OddswireError):  # noqa: N818 - a state, not a mistake.
    """The message was not taken: the publisher is closed, or was never opened."""


class FlushTimeout(OddswireError, TimeoutError):  # noqa: N818 - named as what it is a kind of.
    """Not everything was answered in time. What waits goes on waiting and is sent when the server is back."""


@dataclass(frozen=True)
class Problem:
    """Why something was not taken, in the server's words where it has said something."""

    code: str
    """The server's error code, such as `unknown_topic`, or one of this package: `expired` (its `expires_at` passed
    before it could be sent), `outcome_unknown` (sent, and never answered), `closed` (the publisher was closed first),
    `internal` (a bug)."""
    detail: str
    status: int | None = None
    """The HTTP status, where there was an answer."""

    def __str__(self) -> str:
        """One line."""
        return f"{self.code}: {self.detail}" if self.status is None else f"{self.status} {self.code}: {self.detail}"


@dataclass(frozen=True)
class Undelivered:
    """A message that will not be delivered, and why."""

    message: Message
    problem: Problem


class Refused(OddswireError):  # noqa: N818 - the server's word for it.
    """The server refuses this publisher for good: its token, or its URL. Nothing is taken from it any more."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class BroadcastError(OddswireError):
    """The broadcast was not confirmed. It is not tried again: the server would not know it for the same."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class DeliveryError(OddswireError):
    """Messages that were taken by `publish` will not be delivered. Raised by `flush` and `close`, once for each."""

    def __init__(self, count: int, first: Sequence[Undelivered]) -> None:
        self.count = count
        """How many."""
        self.first = tuple(first)
        """The first hundred of them; `on_undelivered` gets every one."""
        message, problem = first[0].message, first[0].problem
        super().__init__(f"{count} undelivered, the first to {message.address}: {problem}")

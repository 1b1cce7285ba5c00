"""The counts of a publisher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddswire.errors import Problem


@dataclass
class Stats:
    """Counts since the publisher was made, at the time of the call."""

    published: int = 0
    """Messages that `publish` queued."""
    delivered: int = 0
    """Messages that the server confirmed."""
    unchanged: int = 0
    """Confirmed messages that changed nothing, so that the server did not deliver them."""
    conflated: int = 0
    """Messages that were superseded before they were sent."""
    undelivered: int = 0
    """Messages that were reported as undelivered."""
    batches: int = 0
    """Batches that the server took."""
    retries: int = 0
    """Attempts after the first of each batch."""
    waiting: int = 0
    """Messages without an answer now, including those in flight."""
    waiting_bytes: int = 0
    """Bytes of the waiting messages."""
    position: str | None = None
    """The server's position after the last batch."""
    last_problem: Problem | None = None
    """Why the last attempt failed; None after a success."""

"""The counts of a publisher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddswire.errors import Problem


@dataclass
class Stats:
    """Counts since the publisher was made, up to the call of `stats`."""

    published: int = 0
    """Messages that `publish` queued."""
    delivered: int = 0
    """Messages that the server confirmed."""
    unchanged: int = 0
    """Confirmed messages whose data was the same as before, so that the server did not deliver them."""
    conflated: int = 0
    """Messages that a newer message of the same key replaced before they were sent."""
    undelivered: int = 0
    """Messages that were reported as undelivered."""
    batches: int = 0
    """Batches that the server took."""
    retries: int = 0
    """Attempts after the first attempt of each batch."""
    waiting: int = 0
    """Messages that the server has not answered yet, including those in flight."""
    waiting_bytes: int = 0
    """Bytes of the messages in `waiting`."""
    position: str | None = None
    """The server's position after the last batch."""
    last_problem: Problem | None = None
    """Why the last attempt failed; None after a success."""

"""What a publisher has done so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddswire.errors import Problem


@dataclass
class Stats:
    """Counts since the publisher was made, as they were when they were asked for."""

    published: int = 0
    """Messages that `publish` took."""
    delivered: int = 0
    """Messages that the server confirmed."""
    unchanged: int = 0
    """Those among them that said nothing new, and were not passed on."""
    conflated: int = 0
    """Messages that were superseded before they were sent."""
    undelivered: int = 0
    """Messages that were reported as undelivered."""
    batches: int = 0
    """Batches that the server took."""
    retries: int = 0
    """Tries beyond the first of a batch."""
    waiting: int = 0
    """Messages without an answer now, those under way included."""
    waiting_bytes: int = 0
    """Bytes of them."""
    position: str | None = None
    """The server's position after the last batch."""
    last_problem: Problem | None = None
    """Why the last try failed; None after one that did not."""

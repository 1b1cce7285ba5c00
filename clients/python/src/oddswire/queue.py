"""The messages that the server has not answered yet: a bounded queue, first in first out. With `conflate` it has one
slot for each key.

Invariant: `count` and `size` cover all messages that were put into the queue and not released yet. So a message in
flight keeps its share of the limits until the server has answered.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddswire.message import Message


class Slot:
    """A place in the queue, with its message."""

    __slots__ = ("message", "number", "since")

    def __init__(self, message: Message, number: int, since: float) -> None:
        self.message = message
        self.number = number
        self.since = since


class Queue:
    """The waiting messages, in order."""

    def __init__(self, messages: int, size: int, *, conflate: bool) -> None:
        self.count = 0
        self.size = 0
        self.last_number = 0
        self.superseded = 0
        self._most_messages = messages
        self._most_bytes = size
        self._conflate = conflate
        self._waiting: deque[Slot] = deque()
        self._waiting_bytes = 0
        self._by_key: dict[tuple[str, str], Slot] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the messages that are not in flight."""
        return self._waiting_bytes

    @property
    def first(self) -> Slot | None:
        """The next slot to send."""
        return self._waiting[0] if self._waiting else None

    def put(self, message: Message, now: float) -> bool:
        """Adds a message. Returns False if the queue has no room."""
        if message.size > self._most_bytes:
            raise ValueError(
                f"the message to {message.address} has {message.size} bytes: expected at most queue_bytes "
                f"{self._most_bytes}"
            )
        slot = self._place_of(message)
        more = message.size - (slot.message.size if slot else 0)
        if (more > 0 and self.size + more > self._most_bytes) or (slot is None and self.count >= self._most_messages):
            return False
        self.size += more
        self._waiting_bytes += more
        if slot is None:
            self._append(message, now)
        else:
            slot.message = message
            self.superseded += 1
        return True

    def _place_of(self, message: Message) -> Slot | None:
        """The slot of the unsent message that this message supersedes. The new message keeps that slot: if it went to
        the end of the queue, a key that changes all the time would never be sent."""
        if not self._conflate or message.key is None:
            return None
        return self._by_key.get((message.topic, message.key))

    def _append(self, message: Message, now: float) -> None:
        self.last_number += 1
        self.count += 1
        slot = Slot(message, self.last_number, now)
        self._waiting.append(slot)
        if self._conflate and message.key is not None:
            self._by_key[message.topic, message.key] = slot

    def take(self, messages: int, size: int) -> list[Slot]:
        """Removes and returns the messages of a batch: at least one, unless the queue is empty."""
        taken: list[Slot] = []
        room = size
        while self._waiting and len(taken) < messages:
            slot = self._waiting[0]
            if taken and slot.message.size > room:
                break
            room -= slot.message.size
            self._waiting_bytes -= slot.message.size
            taken.append(self._waiting.popleft())
            if self._conflate and slot.message.key is not None:
                del self._by_key[slot.message.topic, slot.message.key]
        return taken

    def release(self, slot: Slot) -> None:
        """Frees the room of a message that the server has answered, or that was reported."""
        self.count -= 1
        self.size -= slot.message.size

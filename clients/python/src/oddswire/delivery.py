"""The whole policy of a publisher, without sockets: which step is next, and what to do after an answer.

The drivers call `next`, do the step that it returns, and pass the outcome to `settle`. They provide the clock and the
lock.

Invariants: only one batch is in flight at a time, so messages arrive in the order in which they were published. A batch
has the same bytes and the same Idempotency-Key in each of its attempts; no two batches share a key. Every queued
message is finally either confirmed by the server or reported as undelivered, exactly once.
"""

from __future__ import annotations

import math
import random
import time
import uuid
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oddswire.answer import Again, Divide, Fatal, OneRefused, Outcome, Taken, judge
from oddswire.errors import DeliveryError, Problem, PublisherClosed, QueueFull, Refused, Undelivered
from oddswire.queue import Queue, Slot
from oddswire.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from oddswire.message import Message
    from oddswire.options import Options

# Maximum number of undelivered messages in a DeliveryError. Its `count` includes all undelivered messages.
FIRST_FAILURES = 100
# Error codes of refusals that apply to every message of the same topic.
TOPIC_WIDE = ("unknown_topic", "forbidden")


def new_key() -> str:
    """A random Idempotency-Key."""
    return uuid.uuid4().hex


@dataclass
class Batch:
    """The messages of one request, and the state of its attempts. Times are of the driver's clock, in seconds."""

    slots: Sequence[Slot]
    key: str
    body: bytes
    tries: int = 0
    not_before: float = -math.inf
    unknown_since: float | None = None
    """The start of the first attempt that got no clear answer, so that the server may have taken the batch."""

    @staticmethod
    def of(slots: Sequence[Slot], key: str) -> Batch:
        """Makes a batch. Its body is a JSON array, not NDJSON, because data may contain line breaks."""
        return Batch(slots, key, b"[" + b",".join(slot.message.encoded for slot in slots) + b"]")


@dataclass(frozen=True)
class Send:
    """Send this batch, and pass the outcome to `settle`."""

    batch: Batch


@dataclass(frozen=True)
class Wait:
    """Call `next` again at this time, or when `rouse` returns True. The time is infinite if nothing is scheduled."""

    until: float


@dataclass(frozen=True)
class Done:
    """The publisher is closed, and no message waits any more."""


Step = Send | Wait | Done


class Delivery:
    """The state of one publisher."""

    def __init__(
        self,
        options: Options,
        *,
        random: Callable[[], float] = random.random,
        new_key: Callable[[], str] = new_key,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.options = options
        self.failure: Problem | None = None
        """Why the publisher takes no more messages, after a final refusal."""
        self._random = random
        self._new_key = new_key
        self._wall_clock = wall_clock
        self._queue = Queue(options.queue_messages, options.queue_bytes, conflate=options.conflate)
        self._batches: deque[Batch] = deque()
        self._closing = False
        self._hurry_through = 0
        self._asleep_until: float | None = None
        self._sent_at: float | None = None
        self._stats = Stats()
        self._reports: list[Undelivered] = []
        self._failures: list[Undelivered] = []
        self._failed = 0
        self._new_epochs: list[tuple[str, str]] = []

    # For publishers.

    def offer(self, message: Message, now: float) -> bool:
        """Queues a message. Returns False if the queue is full; raises an error if the publisher can never take the
        message."""
        self.check_open()
        if not self._queue.put(message, now):
            return False
        self._stats.published += 1
        return True

    def check_open(self) -> None:
        """Raises an error with the reason if the publisher takes no more messages."""
        if self.failure is not None and self.failure.status is not None:
            raise Refused(self.failure)
        if self.failure is not None:
            raise PublisherClosed(f"the publisher has ended: {self.failure}")
        if self._closing:
            raise PublisherClosed("the publisher is closed")

    def full(self) -> QueueFull:
        """Makes the error for a full queue, with the size of the queue and the last problem."""
        why = self._stats.last_problem
        return QueueFull(
            f"the queue is full: {self._queue.count} messages ({self._queue.size} bytes) wait for the server, "
            f"queue_messages is {self.options.queue_messages} and queue_bytes {self.options.queue_bytes}"
            + (f"; the last attempt failed: {why}" if why else "")
        )

    def late(self, timeout: float | None) -> str:
        """The error text of a flush that did not finish within its timeout."""
        why = self.last_problem
        return f"{self._queue.count} messages wait for the server after {timeout or 0:g} s" + (
            f"; the last attempt failed: {why}" if why else ""
        )

    def mark(self) -> int:
        """Returns a mark: the number of the last message so far. Messages up to the mark no longer wait for the
        window."""
        self._hurry_through = self._queue.last_number
        return self._hurry_through

    def is_settled(self, mark: int) -> bool:
        """Whether all messages up to the mark are confirmed or reported."""
        first = self._batches[0].slots[0] if self._batches else self._queue.first
        return first is None or first.number > mark

    def close(self) -> None:
        """Takes no more messages. Queued messages are still sent."""
        self._closing = True

    def rouse(self, now: float) -> bool:
        """Whether a waiting driver must call `next` again. Returns True only once for each wait."""
        if self._asleep_until is None or self._due(now) >= self._asleep_until:
            return False
        self._asleep_until = None
        return True

    def stats(self) -> Stats:
        """The current counts."""
        queue = self._queue
        return replace(self._stats, conflated=queue.superseded, waiting=queue.count, waiting_bytes=queue.size)

    @property
    def last_problem(self) -> Problem | None:
        """Why the last attempt failed; None after a success."""
        return self._stats.last_problem

    def take_failures(self) -> DeliveryError | None:
        """Returns the messages that became undelivered since the last call, as an error; None if there are none."""
        if not self._failed:
            return None
        error = DeliveryError(self._failed, self._failures)
        self._failed, self._failures = 0, []
        return error

    # For drivers.

    def next(self, now: float) -> Step:
        """Returns the step to do now."""
        self._asleep_until = None
        while (due := self._due(now)) <= now:
            if not self._batches:
                self._form()
            if self._batches:
                return self._send(self._batches[0], now)
            if self._closing and not len(self._queue):
                return Done()
        self._asleep_until = due
        return Wait(due)

    def settle(self, outcome: Outcome, now: float) -> None:
        """Applies the outcome of the batch in flight. Does nothing if `fail` has already reported that batch."""
        if not self._batches:
            return
        batch, verdict = self._batches[0], judge(outcome)
        sent_at, self._sent_at = self._sent_at, None
        if isinstance(verdict, Taken):
            self._take(self._batches.popleft(), verdict)
        elif isinstance(verdict, Again):
            self._try_again(batch, verdict, sent_at, now)
        elif isinstance(verdict, Fatal):
            self.fail(verdict.problem)
        else:
            self._refuse(self._batches.popleft(), verdict)

    def fail(self, problem: Problem) -> None:
        """Ends the publisher: it takes no more messages, and reports all queued ones. A batch that the server may have
        taken is reported as `outcome_unknown`, whatever the problem is."""
        self.failure, self._closing = self.failure or problem, True
        unknown = Problem("outcome_unknown", f"sent, but not answered before the end: {problem}", problem.status)
        while self._batches:
            batch = self._batches.popleft()
            may_be_taken = batch.unknown_since is not None or self._sent_at is not None
            self._report(batch.slots, unknown if may_be_taken else problem)
            self._sent_at = None
        self._report(self._queue.take(len(self._queue), self._queue.size), problem)

    def take_reports(self) -> list[Undelivered]:
        """The messages that became undelivered since the last call, in order."""
        reports, self._reports = self._reports, []
        return reports

    def take_new_epochs(self) -> list[tuple[str, str]]:
        """The changes of the epoch since the last call, as pairs of old and new epoch."""
        epochs, self._new_epochs = self._new_epochs, []
        return epochs

    # Internal steps.

    def _due(self, now: float) -> float:
        """When the next step is due; infinite if nothing is scheduled."""
        if self._batches:
            return self._batches[0].not_before
        first = self._queue.first
        if first is None:
            return now if self._closing else math.inf
        options = self.options
        is_full = len(self._queue) >= options.batch_messages or self._queue.waiting_bytes >= options.batch_bytes
        if is_full or self._closing or first.number <= self._hurry_through:
            return now
        return first.since + options.window

    def _form(self) -> None:
        """Makes a batch of waiting messages. Leaves out expired messages, because the server would refuse the whole
        batch."""
        slots = self._queue.take(self.options.batch_messages, self.options.batch_bytes - len("[]"))
        now = self._wall_clock()
        expired = [slot for slot in slots if is_expired(slot.message, now)]
        if expired:
            self._report(expired, Problem("expired", "its expires_at passed before it could be sent"))
            slots = [slot for slot in slots if not is_expired(slot.message, now)]
        self._push([slots])

    def _push(self, parts: Iterable[Sequence[Slot]]) -> None:
        """Makes batches, and puts them in this order in front of all other batches."""
        self._batches.extendleft(Batch.of(slots, self._new_key()) for slots in reversed(list(parts)) if slots)

    def _send(self, batch: Batch, now: float) -> Send:
        batch.tries += 1
        self._sent_at = now
        if batch.tries > 1:
            self._stats.retries += 1
        return Send(batch)

    def _take(self, batch: Batch, taken: Taken) -> None:
        for slot in batch.slots:
            self._queue.release(slot)
        stats, before, position = self._stats, self._stats.position, taken.position
        stats.delivered += len(batch.slots)
        stats.unchanged += taken.unchanged
        stats.batches += 1
        stats.position, stats.last_problem = position, None
        if before is not None and epoch(before) != epoch(position):
            self._new_epochs.append((epoch(before), epoch(position)))

    def _try_again(self, batch: Batch, again: Again, sent_at: float | None, now: float) -> None:
        self._stats.last_problem = again.problem
        if again.may_be_taken and batch.unknown_since is None:
            batch.unknown_since = sent_at
        batch.not_before = now + self._pause(batch.tries, again.after)
        limit = self.options.retry_for
        if limit is None or batch.unknown_since is None or batch.not_before <= batch.unknown_since + limit:
            return
        detail = f"sent, but not answered within retry_for ({limit:g} s): {again.problem}"
        self._batches.popleft()
        self._report(batch.slots, Problem("outcome_unknown", detail, again.problem.status))

    def _pause(self, tries: int, asked: float) -> float:
        """Returns the pause before the next attempt, with full jitter: publishers that failed at the same time do not
        retry at the same time. The random pause is added to the server's `Retry-After`, so that no publisher retries
        earlier."""
        options = self.options
        ceiling = min(options.backoff_max, options.backoff * 2.0 ** min(tries - 1, 30))
        return min(max(asked, 0.0), options.retry_after_max) + self._random() * ceiling

    def _refuse(self, batch: Batch, verdict: OneRefused | Divide) -> None:
        """Removes the refused message from the batch. If the answer does not name the message, halves the batch."""
        self._stats.last_problem = verdict.problem
        slots = batch.slots
        if len(slots) == 1:
            self._report(slots, verdict.problem)
        elif isinstance(verdict, OneRefused) and 0 <= verdict.index < len(slots):
            refused = self._refused(slots, verdict)
            self._report(refused, verdict.problem)
            gone = set(refused)
            self._push([[slot for slot in slots if slot not in gone]])
        else:
            middle = len(slots) // 2
            self._push([slots[:middle], slots[middle:]])

    @staticmethod
    def _refused(slots: Sequence[Slot], verdict: OneRefused) -> Sequence[Slot]:
        """Returns the refused message. If the refusal applies to its topic, returns all messages to that topic: each
        would cost a request and get the same answer."""
        named = slots[verdict.index]
        if verdict.problem.code not in TOPIC_WIDE:
            return [named]
        return [slot for slot in slots if slot.message.topic == named.message.topic]

    def _report(self, slots: Sequence[Slot], problem: Problem) -> None:
        for slot in slots:
            self._queue.release(slot)
        undelivered = [Undelivered(slot.message, problem) for slot in slots]
        self._reports += undelivered
        self._failures += undelivered[: FIRST_FAILURES - len(self._failures)]
        self._failed += len(undelivered)
        self._stats.undelivered += len(undelivered)


def is_expired(message: Message, now: float) -> bool:
    """Whether the message has expired, according to this machine's clock."""
    return message.expires_at is not None and message.expires_at.timestamp() <= now


def epoch(position: str) -> str:
    """Returns the epoch: the part of a position that changes if the server could not continue its sequence."""
    return position.partition("-")[0]

"""The policy alone: each message is taken once and in order, or reported, whatever the server and the network do."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire import Message, Options, PublisherClosed, Refused
from oddswire.answer import Answered, Lost, NotSent, Outcome
from oddswire.delivery import Batch, Delivery, Done, Send, Wait
from oddswire.errors import DeliveryError, Problem, Undelivered

TOPIC = "odds_updates"
GONE = datetime(2020, 1, 1, tzinfo=timezone.utc)

# The possible fates of a request. With `late` the server takes it, but the answer is lost.
FATES = ("taken", "late", "lost", "not sent", "429", "503", "502", "413", "400 without an index")


@dataclass
class ServerModel:
    """A model of the server: it takes whole batches, refuses with an index, and remembers Idempotency-Keys."""

    log: list[tuple[str | None, int]] = field(default_factory=list)
    answers: dict[str, tuple[bytes, Answered]] = field(default_factory=dict)

    def meet(self, batch: Batch, fate: str) -> Outcome:
        """The outcome that the publisher sees for a request with this fate."""
        if fate == "lost":
            return Lost("cut")
        if fate == "not sent":
            return NotSent("refused")
        if fate == "429":
            return Answered(429, b"", retry_after=1.0)
        if fate in ("502", "503"):
            return Answered(int(fate), b"")
        if fate == "413":
            return Answered(413, b"<html>")
        if fate == "400 without an index":
            return Answered(400, b"<html>")
        answer = self.publish(batch)
        return Lost("cut") if fate == "late" else answer

    def publish(self, batch: Batch) -> Answered:
        """Takes or refuses the whole batch, once for each Idempotency-Key."""
        if batch.key in self.answers:
            body, answer = self.answers[batch.key]
            assert body == batch.body, "another body under the same key"
            return answer
        messages = json.loads(batch.body)
        for index, message in enumerate(messages):
            if message["data"] < 0:
                error = {"code": "invalid_message", "detail": "negative", "index": index}
                return Answered(400, json.dumps({"error": error}).encode())
        self.log += [(message.get("key"), message["data"]) for message in messages]
        answer = Answered(200, json.dumps({"accepted": 1, "unchanged": 0, "position": "1-1"}).encode())
        self.answers[batch.key] = batch.body, answer
        return answer


@dataclass
class Run:
    """A publisher and a model of the server, which go through a script of events."""

    delivery: Delivery
    server: ServerModel = field(default_factory=ServerModel)
    now: float = 0.0
    reported: list[Undelivered] = field(default_factory=list)

    def step(self, fate: str) -> bool:
        """Does one step as a driver. Returns False if no further step is possible without a new message."""
        step = self.delivery.next(self.now)
        if isinstance(step, Send):
            self.delivery.settle(self.server.meet(step.batch, fate), self.now)
        elif isinstance(step, Wait) and step.until < math.inf:
            self.now = step.until
        self.reported += self.delivery.take_reports()
        return not isinstance(step, Done) and step != Wait(math.inf)

    def finish(self) -> None:
        """Closes the publisher. The server takes all remaining messages."""
        self.delivery.close()
        while self.step("taken"):
            pass
        assert isinstance(self.delivery.next(self.now), Done)


def options(**changed: object) -> Options:
    return Options(**{"batch_messages": 4, "queue_messages": 12, "retry_for": None, **changed})  # type: ignore[arg-type]


KEYS = st.sampled_from([None, "a", "b", "c"])
# The server model refuses negative numbers.
PUBLISH = st.tuples(KEYS, st.booleans())
STEPS = st.lists(st.one_of(PUBLISH, st.sampled_from(FATES)), max_size=80)


def live_through(run: Run, script: list[tuple[str | None, bool] | str]) -> list[tuple[str | None, int]]:
    """Plays the script, and returns the messages that the publisher queued."""
    taken, number = [], 0
    for event in script:
        if isinstance(event, str):
            run.step(event)
            continue
        key, is_bad = event
        number += 1
        data = -number if is_bad else number
        if run.delivery.offer(Message.of(TOPIC, data, key), run.now):
            taken.append((key, data))
        assert run.delivery.stats().waiting <= run.delivery.options.queue_messages
    run.finish()
    return taken


@given(STEPS)
def test_every_message_is_taken_once_in_order_or_reported(script: list[tuple[str | None, bool] | str]) -> None:
    run = Run(Delivery(options()))
    taken = live_through(run, script)
    reported = {(report.message.key, int(report.message.data)) for report in run.reported}
    assert run.server.log == [message for message in taken if message not in reported]
    assert len(reported) == len(run.reported), "reported once"
    # A good message is reported only if a proxy refused it alone.
    assert all(
        data < 0 or report.problem.code == "http_error"
        for report in run.reported
        for data in [int(report.message.data)]
    )
    stats = run.delivery.stats()
    assert (stats.waiting, stats.waiting_bytes) == (0, 0)
    assert stats.published == stats.delivered + stats.undelivered == len(taken)


@given(STEPS)
def test_conflated_prices_never_go_back_and_end_with_latest(script: list[tuple[str | None, bool] | str]) -> None:
    run = Run(Delivery(options(conflate=True)))
    good = [(event[0], False) if isinstance(event, tuple) else event for event in script]
    without_refusals = [event for event in good if event not in ("413", "400 without an index")]
    taken = live_through(run, without_refusals)
    for key in ("a", "b", "c"):
        of_key = [data for of, data in run.server.log if of == key]
        published = [data for of, data in taken if of == key]
        assert of_key == sorted(set(of_key)), "no older value after a newer one"
        assert of_key[-1:] == published[-1:]
    assert [data for key, data in run.server.log if key is None] == [data for key, data in taken if key is None]
    stats = run.delivery.stats()
    assert stats.published == stats.delivered + stats.conflated


@given(STEPS, st.integers(0, 80))
def test_after_any_end_all_is_confirmed_or_reported(script: list[tuple[str | None, bool] | str], at: int) -> None:
    run = Run(Delivery(options()))
    for event in script[:at]:
        if isinstance(event, str):
            run.step(event)
        else:
            run.delivery.offer(Message.of(TOPIC, 1, event[0]), run.now)
    sent = run.delivery.next(run.now)
    run.delivery.fail(Problem("closed", "the end"))
    stats = run.delivery.stats()
    assert stats.published == stats.delivered + stats.undelivered
    assert (stats.waiting, stats.waiting_bytes) == (0, 0)
    reports = run.reported + run.delivery.take_reports()
    assert len(reports) == stats.undelivered
    if isinstance(sent, Send):
        unknown = [report.message for report in reports if report.problem.code == "outcome_unknown"]
        assert unknown[: len(sent.batch.slots)] == [slot.message for slot in sent.batch.slots]
    assert isinstance(run.delivery.next(run.now), Done)


def put(delivery: Delivery, *data: int, key: str | None = None) -> None:
    for one in data:
        assert delivery.offer(Message.of(TOPIC, one, key), 0.0)


def sent(delivery: Delivery, now: float) -> list[int]:
    """Returns the data of the batch that is sent now."""
    step = delivery.next(now)
    assert isinstance(step, Send), step
    return [int(slot.message.data) for slot in step.batch.slots]


def test_batch_is_sent_when_its_window_ends_not_before() -> None:
    delivery = Delivery(options(window=0.5))
    put(delivery, 1)
    assert delivery.next(0.0) == Wait(0.5)
    put(delivery, 2)
    assert delivery.next(0.499) == Wait(0.5)
    assert sent(delivery, 0.5) == [1, 2]


def test_full_batch_is_sent_at_once() -> None:
    delivery = Delivery(options(window=10.0))
    put(delivery, 1, 2, 3)
    assert delivery.next(0.0) == Wait(10.0)
    assert not delivery.rouse(0.0)
    put(delivery, 4)
    assert delivery.rouse(0.0)
    assert not delivery.rouse(0.0), "it says so once"
    put(delivery, 5)
    assert sent(delivery, 0.0) == [1, 2, 3, 4]


def test_batch_is_at_most_batch_bytes_long() -> None:
    size = Message.of(TOPIC, 1).size
    delivery = Delivery(options(batch_bytes=2 * size + 2))
    put(delivery, 1, 2, 3)
    step = delivery.next(0.0)
    assert isinstance(step, Send)
    assert len(step.batch.body) <= 2 * size + 2
    assert len(step.batch.slots) == 2
    smaller = Delivery(options(batch_bytes=2 * size + 1, window=0.0))
    put(smaller, 1, 2, 3)
    assert sent(smaller, 0.0) == [1]


def test_message_longer_than_a_batch_is_sent_alone() -> None:
    delivery = Delivery(options(batch_bytes=1))
    put(delivery, 1, 2)
    assert sent(delivery, 0.0) == [1]


def test_flush_does_not_wait_for_the_window() -> None:
    delivery = Delivery(options(window=10.0))
    put(delivery, 1)
    assert delivery.next(0.0) == Wait(10.0)
    mark = delivery.mark()
    assert delivery.rouse(0.0)
    put(delivery, 2)
    assert sent(delivery, 0.0) == [1, 2]
    delivery.settle(Answered(200, b'{"accepted":2,"unchanged":0,"position":"1-2"}'), 0.0)
    assert delivery.is_settled(mark)
    put(delivery, 3)
    assert delivery.next(0.0) == Wait(10.0), "a message after the flush waits for the window again"


def test_jittered_pauses_grow_on_top_of_retry_after() -> None:
    draws = iter([1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 1.0])
    delivery = Delivery(options(backoff=0.1, backoff_max=0.5, retry_after_max=60.0), random=lambda: next(draws))
    put(delivery, 1)
    now, pauses = 1.0, []
    for retry_after in [None, None, None, None, None, 3.0, 3600.0]:
        assert sent(delivery, now) == [1]
        delivery.settle(Answered(503, b"", retry_after), now)
        step = delivery.next(now)
        assert isinstance(step, Wait)
        pauses.append(round(step.until - now, 6))
        now = step.until
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.25, 3.0, 60.5]


def test_unknown_outcome_ends_before_server_forgets_the_key() -> None:
    delivery = Delivery(options(retry_for=240.0, backoff=10.0, backoff_max=10.0), random=lambda: 1.0)
    put(delivery, 1)
    now, tries = 100.0, []
    while isinstance(step := delivery.next(now), Send) or (isinstance(step, Wait) and step.until < math.inf):
        if isinstance(step, Wait):
            now = step.until
            continue
        tries.append(now)
        # The first attempts have no connection. The time limit starts at the first attempt that the server may have
        # taken.
        delivery.settle(NotSent("refused") if len(tries) < 100 else Lost("cut"), now)
    began = tries[99]
    assert began - tries[0] > 240.0
    assert tries[-1] - began <= 240.0 < tries[-1] - began + 10.0 + 1e-6
    [report] = delivery.take_reports()
    assert report.problem.code == "outcome_unknown"


def test_expired_message_is_reported_and_the_rest_is_sent() -> None:
    delivery = Delivery(options())
    put(delivery, 1, key="a")
    assert delivery.offer(Message.of(TOPIC, 2, "b", expires_at=GONE), 0.0)
    put(delivery, 3, key="c")
    assert sent(delivery, 1.0) == [1, 3]
    [report] = delivery.take_reports()
    assert (report.message.key, report.problem.code) == ("b", "expired")


def test_refusal_of_topic_removes_all_its_messages() -> None:
    delivery = Delivery(options())
    for topic in ("nope", TOPIC, "nope"):
        assert delivery.offer(Message.of(topic, 1), 0.0)
    assert sent(delivery, 1.0) == [1, 1, 1]
    error = b'{"error":{"code":"unknown_topic","detail":"no such topic","index":0}}'
    delivery.settle(Answered(400, error), 1.0)
    assert [report.message.topic for report in delivery.take_reports()] == ["nope", "nope"]
    step = delivery.next(1.0)
    assert isinstance(step, Send)
    assert [slot.message.topic for slot in step.batch.slots] == [TOPIC]


@pytest.mark.parametrize("index", [4, -1, 10**9, True, "1", None])
def test_refusal_with_invalid_index_halves_the_batch(index: object) -> None:
    delivery = Delivery(options())
    put(delivery, 1, 2, 3, 4)
    assert sent(delivery, 0.0) == [1, 2, 3, 4]
    error = {"error": {"code": "invalid_message", "detail": "", "index": index}}
    delivery.settle(Answered(400, json.dumps(error).encode()), 0.0)
    assert delivery.take_reports() == []
    assert sent(delivery, 0.0) == [1, 2]


def test_final_refusal_ends_publisher_and_publish_raises_it() -> None:
    delivery = Delivery(options(batch_messages=1))
    put(delivery, 1, 2, 3)
    assert sent(delivery, 0.0) == [1]
    delivery.settle(Answered(401, b'{"error":{"code":"unauthorized","detail":"no"}}'), 0.0)
    assert [report.problem.code for report in delivery.take_reports()] == ["unauthorized"] * 3
    with pytest.raises(Refused, match="401 unauthorized: no"):
        delivery.offer(Message.of(TOPIC, 4), 0.0)


def test_maybe_taken_batch_before_final_refusal_is_unknown() -> None:
    delivery = Delivery(options(batch_messages=1, backoff=0.001))
    put(delivery, 1, 2)
    assert sent(delivery, 0.0) == [1]
    delivery.settle(Lost("cut"), 0.0)
    assert sent(delivery, 1.0) == [1]
    delivery.settle(Answered(403, b""), 1.0)
    assert [report.problem.code for report in delivery.take_reports()] == ["outcome_unknown", "http_error"]


def test_closed_publisher_takes_nothing() -> None:
    delivery = Delivery(options())
    delivery.close()
    with pytest.raises(PublisherClosed):
        delivery.offer(Message.of(TOPIC, 1), 0.0)


def test_delivery_error_counts_all_and_keeps_the_first_hundred() -> None:
    delivery = Delivery(options(queue_messages=1000))
    put(delivery, *range(1000))
    delivery.fail(Problem("closed", "the end"))
    error = delivery.take_failures()
    assert isinstance(error, DeliveryError)
    assert error.count == 1000
    assert [int(undelivered.message.data) for undelivered in error.first] == list(range(100))
    assert delivery.take_failures() is None


def test_new_epoch_is_reported_but_not_the_first_one() -> None:
    delivery = Delivery(options(batch_messages=1))
    put(delivery, 1, 2, 3)
    for position in ("7-1", "7-2", "9-1"):
        sent(delivery, 0.0)
        delivery.settle(Answered(200, json.dumps({"accepted": 1, "unchanged": 0, "position": position}).encode()), 0.0)
    assert delivery.take_new_epochs() == [("7", "9")]
    assert delivery.take_new_epochs() == []

"""The limits of the queue, exactly at the limit and just above it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import WITHIN, Hub
from kinds import Log, Publishers
from link import STALL, Answer, Link
from oddswire import DeliveryError, Message, PublisherClosed, QueueFull
from oddswire.queue import Queue

TOPIC = "odds_updates"


def message(key: str | None, length: int) -> Message:
    return Message.of(TOPIC, "x" * length, key)


@given(
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["put", "take", "release"]), st.sampled_from([None, "a", "b"]), st.integers(0, 40))
    ),
)
def test_limits_and_counts_hold_in_any_sequence(conflate: bool, events: list[tuple[str, str | None, int]]) -> None:
    most = 4 * message("a", 20).size
    queue, under_way = Queue(5, most, conflate=conflate), []
    for event, key, length in events:
        if event == "put":
            before = queue.count
            one = message(key, length)
            taken = queue.put(one, 0.0)
            assert taken or queue.count == before
        elif event == "take":
            under_way += queue.take(length % 3 + 1, most)
        elif under_way:
            queue.release(under_way.pop(0))
        assert queue.count <= 5
        assert queue.size <= most
    rest = under_way + queue.take(100, most)
    assert queue.count == len(rest)
    assert queue.size == sum(slot.message.size for slot in rest)
    assert queue.waiting_bytes == len(queue) == 0


def test_queue_bytes_is_exact_to_the_byte() -> None:
    one = message("a", 10)
    queue = Queue(100, 2 * one.size, conflate=False)
    assert queue.put(one, 0.0)
    assert queue.put(one, 0.0)
    assert not queue.put(one, 0.0)
    smaller = Queue(100, 2 * one.size - 1, conflate=False)
    assert smaller.put(one, 0.0)
    assert not smaller.put(one, 0.0)


def test_message_that_never_fits_is_refused_with_both_sizes() -> None:
    one = message("a", 10)
    with pytest.raises(ValueError, match=f"has {one.size} bytes: expected at most queue_bytes {one.size - 1}"):
        Queue(100, one.size - 1, conflate=True).put(one, 0.0)


def test_longer_conflated_message_needs_room_for_the_excess() -> None:
    one, other = message("a", 10), message("b", 10)
    queue = Queue(2, one.size + other.size + 5, conflate=True)
    assert queue.put(one, 0.0)
    assert queue.put(other, 0.0)
    assert queue.put(message("a", 15), 0.0)
    assert not queue.put(message("a", 16), 0.0)
    assert not queue.put(message("c", 0), 0.0)
    assert [slot.message for slot in queue.take(9, 999)] == [message("a", 15), other]


def test_queue_takes_queue_messages_and_one_more_raises(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url, queue_messages=10, on_full="raise", batch_messages=3)
    publisher.publish(TOPIC, 0)
    publisher.publish(TOPIC, 1)
    publisher.publish(TOPIC, 2)
    link.until(lambda requests: len(requests) == 1)
    # Messages in flight count, because they wait for the server's answer, too.
    for number in range(3, 10):
        publisher.publish(TOPIC, number)
    assert publisher.stats.waiting == 10
    with pytest.raises(QueueFull, match="10 messages .* queue_messages is 10 "):
        publisher.publish(TOPIC, 10)
    link.release()
    publisher.flush(WITHIN)
    publisher.publish(TOPIC, 10)
    publisher.flush(WITHIN)
    assert [message["data"] for message in hub.history()] == list(range(11))


def test_publish_waits_block_timeout_for_a_full_queue(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url, queue_messages=1, block_timeout=0.2)
    publisher.publish(TOPIC, 0)
    began = time.monotonic()
    with pytest.raises(QueueFull):
        publisher.publish(TOPIC, 1)
    assert time.monotonic() - began >= 0.2
    link.release()
    publisher.flush(WITHIN)
    assert [message["data"] for message in hub.history()] == [0], "what raised was not queued"


def test_waiting_publish_continues_when_there_is_room(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url, queue_messages=1, block_timeout=WITHIN)
    publisher.publish(TOPIC, 0)
    link.until(lambda requests: len(requests) == 1)
    waiting = threading.Thread(target=publisher.publish, args=(TOPIC, 1))
    waiting.start()
    link.release()
    waiting.join(WITHIN)
    assert not waiting.is_alive()
    publisher.flush(WITHIN)
    assert [message["data"] for message in hub.history()] == [0, 1]


def test_waiting_publish_raises_when_publisher_is_closed(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers, log: Log
) -> None:
    link = links(hub)
    link.faults += [Answer(503, headers=(("Retry-After", "60"),))]
    publisher = publishers(link.url, queue_messages=1, block_timeout=WITHIN)
    publisher.publish(TOPIC, 0)
    log.until("503 http_error")
    raised: list[Exception] = []

    def wait() -> None:
        try:
            publisher.publish(TOPIC, 1)
        except PublisherClosed as error:
            raised.append(error)

    def close() -> None:
        with pytest.raises(DeliveryError, match="1 undelivered"):
            publisher.close(3.0)

    waiting, closing = threading.Thread(target=wait), threading.Thread(target=close)
    waiting.start()
    closing.start()
    waiting.join(2.0)
    assert len(raised) == 1
    assert closing.is_alive(), "it is told when the close begins, not when it ends"
    closing.join(WITHIN)
    assert not closing.is_alive()


def test_superseded_prices_are_not_sent_with_conflate(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url, queue_messages=4, on_full="raise", conflate=True)
    publisher.publish(TOPIC, "first", key="a")
    link.until(lambda requests: len(requests) == 1)
    for number in range(1000):
        publisher.publish(TOPIC, number, key="a")
        publisher.publish(TOPIC, -number, key="b")
    publisher.publish(TOPIC, "keyless")
    link.release()
    publisher.flush(WITHIN)
    data = [(message.get("key"), message["data"]) for message in hub.history()]
    assert data == [("a", "first"), ("a", 999), ("b", -999), (None, "keyless")]
    assert publisher.stats.conflated == 2 * 999


def test_error_of_a_full_queue_names_the_last_problem(hub: Hub, publishers: Publishers, log: Log) -> None:
    hub.end()
    publisher = publishers(hub.url, queue_messages=1, on_full="raise")
    publisher.publish(TOPIC, 0)
    log.until("not_connected")
    with pytest.raises(QueueFull, match="the last attempt failed: not_connected: ConnectError"):
        publisher.publish(TOPIC, 1)
    with pytest.raises(DeliveryError):
        publisher.close(0.0)

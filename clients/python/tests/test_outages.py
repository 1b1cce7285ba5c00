"""Restarted servers, lost answers, requested pauses: no message is lost or duplicated."""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from hub import WITHIN, Hub
from kinds import AnyPublisher, Log, Publishers
from link import DRIBBLE, LOSE_ANSWER, LOSE_REQUEST, STALL, Answer, Fault, Link
from oddswire import DeliveryError

TOPIC = "odds_updates"


def numbers(hub: Hub) -> list[int]:
    """The data of every message, in the order of the log."""
    return [message["data"] for message in hub.history()]


def publish_through(publisher: AnyPublisher, count: int, at: dict[int, Callable[[], None]]) -> None:
    """Publishes numbers without a key, which are never unchanged, and calls the functions in `at` at their numbers."""
    for number in range(count):
        if number in at:
            at[number]()
        publisher.publish(TOPIC, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_restart_with_journal_loses_and_doubles_nothing(
    durable: Hub, publishers: Publishers, log: Log, number: signal.Signals
) -> None:
    publisher = publishers(durable.url, batch_messages=7)

    def restart() -> None:
        log.until("taken by")
        durable.end(number)
        durable.start()

    publish_through(publisher, 1200, {200: restart, 600: restart, 1000: restart})
    publisher.flush(WITHIN)
    assert numbers(durable) == list(range(1200))
    assert publisher.stats.delivered == 1200
    assert publishers.epochs == []


def test_restart_with_memory_continues_with_the_unconfirmed(hub: Hub, publishers: Publishers, log: Log) -> None:
    publisher = publishers(hub.url, batch_messages=7, queue_messages=100)
    writer = threading.Thread(target=publish_through, args=(publisher, 2000, {}))
    writer.start()
    log.until("taken", 50)
    hub.end(signal.SIGKILL)
    # After the first failed attempt, the old server process confirms no further message.
    log.until("not taken")
    confirmed = publisher.stats.delivered
    hub.start()
    writer.join(WITHIN)
    publisher.flush(WITHIN)
    assert 0 < confirmed < 2000
    assert numbers(hub) == list(range(confirmed, 2000))
    assert len(publishers.epochs) == 1
    assert publishers.epochs[0][0] < publishers.epochs[0][1]


def test_late_server_gets_every_message(hub: Hub, publishers: Publishers, log: Log) -> None:
    hub.end()
    publisher = publishers(hub.url)
    publish_through(publisher, 100, {})
    log.until("not_connected", 3)
    hub.start()
    publisher.flush(WITHIN)
    assert numbers(hub) == list(range(100))


def test_host_dropping_packets_is_retried_without_end(publishers: Publishers, log: Log) -> None:
    # The backlog of this listener is full, so the kernel drops further connection attempts.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as knocking:
        for _ in range(4):
            client = knocking.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        # With retry_for=0, a batch with an unknown outcome would be reported at once.
        publisher = publishers(f"http://127.0.0.1:{listener.getsockname()[1]}", request_timeout=0.2, retry_for=0.0)
        publisher.publish(TOPIC, 1)
        log.until("not_connected: ConnectTimeout", 3)
        assert publishers.undelivered == []


def test_batch_with_lost_answer_is_taken_once(hub: Hub, links: Callable[[Hub], Link], publishers: Publishers) -> None:
    link = links(hub)
    link.faults += [LOSE_ANSWER, LOSE_ANSWER, LOSE_REQUEST]
    publisher = publishers(link.url)
    publisher.publish(TOPIC, 1)
    publisher.publish(TOPIC, 2)
    publisher.flush(WITHIN)
    publisher.publish(TOPIC, 3)
    publisher.flush(WITHIN)
    assert numbers(hub) == [1, 2, 3]
    first, *retries, other = link.requests
    assert retries == [first] * 3, "the same bytes under the same key"
    assert first.key
    assert other.key not in (None, first.key)
    assert publisher.stats.retries == 3


def test_repeatedly_lost_answers_keep_order_without_duplicates(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    faults: list[Fault] = [LOSE_ANSWER, LOSE_REQUEST, Answer(502), Answer(504)]
    link.faults += [faults[number * 7 % 11 % 4] for number in range(60)]
    publisher = publishers(link.url, batch_messages=3)
    publish_through(publisher, 60, {})
    publisher.flush(WITHIN)
    assert numbers(hub) == list(range(60))


def test_silent_server_is_retried_after_request_timeout(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers, log: Log
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url, request_timeout=0.05)
    publisher.publish(TOPIC, 1)
    publisher.flush(WITHIN)
    assert numbers(hub) == [1]
    log.until("no answer within request_timeout (0.05 s)")


def test_endless_slow_answer_ends_at_request_timeout(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [DRIBBLE]
    publisher = publishers(link.url, request_timeout=0.2)
    publisher.publish(TOPIC, 1)
    publisher.flush(WITHIN)
    assert numbers(hub) == [1]
    assert len(link.requests) == 2


def test_retry_after_of_a_429_is_respected(hubs: Callable[..., Hub], publishers: Publishers, log: Log) -> None:
    hub = hubs(publishes_per_second="1")
    publisher = publishers(hub.url, batch_messages=1)
    began = time.monotonic()
    publish_through(publisher, 4, {})
    publisher.flush(WITHIN)
    # The server allows a burst of two, and then asks for a pause of one second before each further request.
    assert time.monotonic() - began >= 1.0
    assert numbers(hub) == [0, 1, 2, 3]
    log.until("429 too_many_publishes")
    assert publisher.stats.retries <= 4, "no request comes before the pause is over"


def test_retry_after_of_a_503_is_respected_and_taken_once(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [Answer(503, headers=(("Retry-After", "1"),))]
    publisher = publishers(link.url)
    began = time.monotonic()
    publisher.publish(TOPIC, 1)
    publisher.flush(WITHIN)
    assert time.monotonic() - began >= 1.0
    assert numbers(hub) == [1]
    assert len(link.requests) == 2


def test_full_disk_is_retried_without_end(durable: Hub, publishers: Publishers, log: Log) -> None:
    assert durable.process is not None
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(durable.process.pid, resource.RLIMIT_FSIZE, (4096, most))
    # retry_for is far shorter than the outage. But it does not apply to a batch that the server certainly did not take.
    publisher = publishers(durable.url, retry_for=0.0, retry_after_max=0.02)
    for number in range(40):
        publisher.publish(TOPIC, [number, "x" * 50_000])
    log.until("503 engine_unavailable: no message was accepted", 2)
    resource.prlimit(durable.process.pid, resource.RLIMIT_FSIZE, (most, most))
    publisher.flush(WITHIN)
    assert [message["data"][0] for message in durable.history()] == list(range(40))
    assert publishers.undelivered == []


def test_unanswered_batch_is_reported_as_unknown_in_time(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [LOSE_REQUEST] * 10_000
    publisher = publishers(link.url, retry_for=0.1)
    publisher.publish(TOPIC, 1, key="a")
    with pytest.raises(DeliveryError) as raised:
        publisher.flush(WITHIN)
    assert raised.value.count == 1
    [undelivered] = publishers.undelivered
    assert (undelivered.problem.code, undelivered.message.key) == ("outcome_unknown", "a")
    assert "retry_for (0.1 s)" in undelivered.problem.detail
    link.faults.clear()
    publisher.publish(TOPIC, 2, key="a")
    publisher.flush(WITHIN)
    assert hub.state() == {"a": 2}


def test_404_of_a_proxy_is_retried_until_the_server_is_back(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [Answer(404), Answer(502), Answer(503), Answer(504), Answer(500), Answer(408), Answer(425)]
    publisher = publishers(link.url)
    publisher.publish(TOPIC, 1)
    publisher.flush(WITHIN)
    assert numbers(hub) == [1]
    assert len({request.key for request in link.requests}) == 1


def test_foreign_404_is_retried_and_in_log_and_stats(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers, log: Log
) -> None:
    link = links(hub)
    link.faults += [Answer(404)] * 3 + [STALL]
    publisher = publishers(link.url)
    publisher.publish(TOPIC, 1)
    log.until("404 http_error: this answer is not from oddswire", 3)
    problem = publisher.stats.last_problem
    assert problem is not None
    assert problem.status == 404
    publisher.publish(TOPIC, 2)
    link.release()
    publisher.flush(WITHIN)
    assert numbers(hub) == [1, 2]
    assert publishers.undelivered == []


def test_log_of_an_outage_has_neither_data_nor_token(hub: Hub, publishers: Publishers, log: Log) -> None:
    hub.end()
    publisher = publishers(hub.url, token="s3cret-token")
    publisher.publish(TOPIC, {"home": "confidential"}, key="a")
    log.until("not_connected")
    with pytest.raises(DeliveryError):
        publisher.close(0.0)
    text = "\n".join([*log.lines, repr(publisher)])
    assert hub.url in text
    assert "s3cret-token" not in text
    assert "confidential" not in text

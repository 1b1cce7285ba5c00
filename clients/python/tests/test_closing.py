"""Flush, close, process exit, forks and callbacks: no queued message disappears silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub import TOKEN, WITHIN, Hub
from kinds import Blocking, Log, Publishers
from link import STALL, Link
from oddswire import DeliveryError, FlushTimeout, Options, Publisher, PublisherClosed, QueueFull, Undelivered

TOPIC = "odds_updates"
SOURCE = Path(__file__).parents[1] / "src"


def test_close_sends_the_rest_and_refuses_new_messages(hub: Hub, publishers: Publishers) -> None:
    publisher = publishers(hub.url, window=3600.0)
    for number in range(1000):
        publisher.publish(TOPIC, number)
    publisher.close()
    assert [message["data"] for message in hub.history()] == list(range(1000))
    with pytest.raises(PublisherClosed):
        publisher.publish(TOPIC, 1000)
    publisher.close()
    publisher.flush()


def test_flush_of_empty_queue_ends_at_once(hub: Hub, publishers: Publishers) -> None:
    publishers(hub.url).flush(WITHIN)


def test_flush_timeout_counts_waiting_and_loses_nothing(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url)
    publisher.publish(TOPIC, 1)
    with pytest.raises(FlushTimeout, match=r"1 messages wait for the server after 0\.05 s"):
        publisher.flush(0.05)
    with pytest.raises(TimeoutError):
        publisher.flush(0.0)
    link.release()
    publisher.flush(WITHIN)
    assert [message["data"] for message in hub.history()] == [1]


def test_flush_waits_only_for_earlier_messages(hub: Hub, links: Callable[[Hub], Link], publishers: Publishers) -> None:
    link = links(hub)
    publisher = publishers(link.url, batch_messages=1, window=3600.0)
    publisher.publish(TOPIC, 1)
    publisher.flush(WITHIN)
    link.faults += [STALL]
    publisher.publish(TOPIC, 2)
    link.until(lambda requests: len(requests) == 2)
    flush = threading.Thread(target=publisher.flush, args=(WITHIN,))
    flush.start()
    link.release()
    flush.join(WITHIN)
    assert not flush.is_alive()
    assert [message["data"] for message in hub.history()] == [1, 2]


def test_close_timeout_reports_all_remaining_messages(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [STALL]
    publisher = publishers(link.url, batch_messages=2)
    for number in range(5):
        publisher.publish(TOPIC, number)
    link.until(lambda requests: len(requests) == 1)
    with pytest.raises(DeliveryError, match="5 undelivered") as raised:
        publisher.close(0.05)
    codes = [(int(report.message.data), report.problem.code) for report in publishers.undelivered]
    # The server may have got the two messages in flight, but not the others.
    assert codes == [(0, "outcome_unknown"), (1, "outcome_unknown"), (2, "closed"), (3, "closed"), (4, "closed")]
    assert raised.value.first == tuple(publishers.undelivered)
    assert publisher.stats.waiting == 0


def test_delivery_error_does_not_hide_error_in_context(hub: Hub, log: Log) -> None:
    with pytest.raises(KeyError, match="mine"), Publisher(hub.url, "wrong") as publisher:
        publisher.publish(TOPIC, 1)
        raise KeyError("mine")
    log.until("1 undelivered")
    with pytest.raises(DeliveryError), Publisher(hub.url, "wrong") as publisher:
        publisher.publish(TOPIC, 1)


def test_failing_callback_does_not_stop_delivery(hub: Hub, log: Log) -> None:
    def fail(undelivered: Undelivered) -> None:
        raise RuntimeError(undelivered.message.topic)

    publisher = Publisher(hub.url, TOKEN, on_undelivered=fail)
    publisher.publish("nope", 1)
    publisher.publish(TOPIC, 2)
    with pytest.raises(DeliveryError):
        publisher.close()
    log.until("a callback of the publisher failed")
    assert [message["data"] for message in hub.history()] == [2]


def test_coroutine_function_as_callback_is_refused() -> None:
    async def report(undelivered: Undelivered) -> None:
        """A coroutine function, which would never run."""

    with pytest.raises(TypeError, match="report is a coroutine function"):
        Publisher("http://localhost", TOKEN, on_undelivered=report)  # type: ignore[arg-type]


def test_callback_can_publish_but_not_wait_for_itself(hub: Hub) -> None:
    errors: list[Exception] = []

    def again(undelivered: Undelivered) -> None:
        publisher.publish(TOPIC, undelivered.message.data)
        for call in (publisher.flush, publisher.close, lambda: publisher.broadcast("notice", 1)):
            with pytest.raises(RuntimeError, match="would wait for itself") as raised:
                call()
            errors.append(raised.value)
        # The queue has room for one message, which is in flight. The callback runs in the only thread that makes room,
        # so it must not wait.
        with pytest.raises(QueueFull) as full:
            publisher.publish(TOPIC, 3)
        errors.append(full.value)

    publisher = Publisher(hub.url, TOKEN, Options(queue_messages=1, block_timeout=3600.0), on_undelivered=again)
    publisher.publish("nope", 1)
    with pytest.raises(DeliveryError):
        publisher.flush(WITHIN)
    assert len(errors) == 4
    publisher.close()
    assert [message["data"] for message in hub.history()] == [1]


def test_failing_http_client_is_reported_without_hanging(publishers: Publishers, log: Log) -> None:
    def broken() -> None:
        raise OSError("no such certificate")

    make = Publisher if publishers.kind == "sync" else Blocking
    publisher = make("http://localhost", TOKEN, Options(), http=broken)  # type: ignore[arg-type]
    log.until("the publisher for http://localhost failed")
    with pytest.raises(PublisherClosed, match="no such certificate"):
        publisher.publish(TOPIC, 1)
    publisher.close()
    if isinstance(publisher, Blocking):
        publisher.end()


def test_inherited_publisher_raises_in_a_fork(hub: Hub) -> None:
    with Publisher(hub.url, TOKEN) as publisher:
        publisher.publish(TOPIC, 1)
        child = os.fork()
        if child == 0:
            try:
                publisher.publish(TOPIC, 2)
            except RuntimeError as error:
                publisher.close()
                os._exit(0 if "make one in each process" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [message["data"] for message in hub.history()] == [1]


FORGETFUL = """
import sys
from oddswire import Options, Publisher
publisher = Publisher(sys.argv[1], sys.argv[2], Options(window=3600.0, close_timeout=float(sys.argv[3])))
for number in range(10):
    publisher.publish("odds_updates", number)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(script: str, *arguments: str) -> tuple[int, str]:
    """Returns the exit status and the error output."""
    with start(script, *arguments) as program:
        try:
            stderr = program.communicate(timeout=WITHIN)[1]
        finally:
            program.kill()
    return program.returncode, stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_program_without_close_sends_the_rest_at_exit(hub: Hub, host: str) -> None:
    assert run(FORGETFUL, hub.url.replace("127.0.0.1", host), TOKEN, "15") == (0, "")
    assert [message["data"] for message in hub.history()] == list(range(10))


def test_program_without_close_logs_unsent_messages(hub: Hub) -> None:
    hub.end(signal.SIGTERM)
    began = time.monotonic()
    _, stderr = run(FORGETFUL, hub.url, TOKEN, "0.2")
    assert time.monotonic() - began < WITHIN
    assert "10 undelivered, the first to odds_updates: " in stderr


# A shell starts background processes with interrupts ignored, and child processes inherit that.
INTERRUPTED = """
import signal
import sys
import threading
from oddswire import Options, Publisher, PublisherClosed

signal.signal(signal.SIGINT, signal.default_int_handler)

def wait_for_room():
    try:
        publisher.publish("odds_updates", 2)
    except PublisherClosed:
        print("closing", flush=True)

options = Options(queue_messages=1, block_timeout=3600.0, close_timeout=3600.0)
with Publisher(sys.argv[1], sys.argv[2], options) as publisher:
    publisher.publish("odds_updates", 1)
    threading.Thread(target=wait_for_room, daemon=True).start()
    print("open", flush=True)
    threading.Event().wait()
"""


def test_second_interrupt_ends_waiting_program_and_logs_losses(hub: Hub) -> None:
    hub.end()
    with start(INTERRUPTED, hub.url, TOKEN) as program:
        try:
            assert program.stdout is not None
            # The first interrupt ends the context. As soon as publish raises PublisherClosed, `close` is waiting.
            for state in ("open", "closing"):
                assert program.stdout.readline() == f"{state}\n"
                program.send_signal(signal.SIGINT)
            stderr = program.communicate(timeout=WITHIN)[1]
        finally:
            program.kill()
    assert program.returncode == -signal.SIGINT
    assert "1 undelivered, the first to odds_updates: " in stderr


def test_repr_shows_url_and_state_but_never_the_token(hub: Hub) -> None:
    publisher = Publisher(hub.url, "s3cret-token")
    shown = [repr(publisher)]
    publisher.close()
    shown.append(repr(publisher))
    assert shown == [f"<Publisher {hub.url} open>", f"<Publisher {hub.url} closed>"]
    held = [repr(vars(part)) for part in (publisher, publisher._delivery, publisher._courier)]
    assert "s3cret-token" not in "".join(held)

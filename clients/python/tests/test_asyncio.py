"""Problems that only the asynchronous publisher can have: cancellation, loops, callbacks on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hub import TOKEN, WITHIN, Hub
from kinds import Log
from link import STALL, Answer, Link
from oddswire import AsyncPublisher, DeliveryError, Options, PublisherClosed, QueueFull, Undelivered
from oddswire.answer import Answered
from oddswire.server import Server

TOPIC = "odds_updates"
FAST = Options(window=0.005, backoff=0.01, backoff_max=0.05)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 2 * WITHIN))


async def arrival(link: Link, number: int = 1) -> None:
    """Waits until the link has seen this number of requests."""
    await asyncio.to_thread(link.until, lambda requests: len(requests) >= number)


def test_publish_cancelled_while_waiting_queues_nothing(hub: Hub, links: Callable[[Hub], Link]) -> None:
    async def test() -> None:
        link = links(hub)
        link.faults += [STALL]
        async with AsyncPublisher(link.url, TOKEN, Options(queue_messages=1, window=0.0)) as publisher:
            await publisher.publish(TOPIC, 1)
            await arrival(link)
            waiting = [asyncio.create_task(publisher.publish(TOPIC, number)) for number in (2, 3)]
            # Let both tasks run until they wait for room.
            await asyncio.sleep(0)
            waiting[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]
            link.release()
            await waiting[1]
        assert [message["data"] for message in hub.history()] == [1, 3]

    run(test())


def test_cancelled_flush_changes_nothing(hub: Hub, links: Callable[[Hub], Link]) -> None:
    async def test() -> None:
        link = links(hub)
        link.faults += [STALL]
        async with AsyncPublisher(link.url, TOKEN, FAST) as publisher:
            await publisher.publish(TOPIC, 1)
            flush = asyncio.create_task(publisher.flush())
            await arrival(link)
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush
            link.release()
            await publisher.flush(WITHIN)
        assert [message["data"] for message in hub.history()] == [1]
        assert publisher.stats.retries == 1, "the stalled attempt ended, and the next one was taken"

    run(test())


def test_cancelled_close_ends_at_once_and_reports_the_rest(hub: Hub, links: Callable[[Hub], Link]) -> None:
    reports: list[Undelivered] = []

    async def test() -> None:
        link = links(hub)
        link.faults += [STALL]
        publisher = AsyncPublisher(link.url, TOKEN, FAST, on_undelivered=reports.append)

        async def use() -> None:
            async with publisher:
                await publisher.publish(TOPIC, 1)
                await arrival(link)
                await publisher.publish(TOPIC, 2)
                leaving.set()

        leaving = asyncio.Event()
        using = asyncio.create_task(use())
        await leaving.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        assert "closed" in repr(publisher)

    run(test())
    reported = [(report.message.data, report.problem.code) for report in reports]
    assert reported == [(b"1", "outcome_unknown"), (b"2", "closed")]


def test_loop_ending_without_close_reports_the_rest(hub: Hub, log: Log) -> None:
    hub.end()

    async def test() -> None:
        publisher = AsyncPublisher(hub.url, TOKEN, Options(backoff=10.0))
        await publisher.__aenter__()
        await publisher.publish(TOPIC, 1)
        await asyncio.to_thread(log.until, "not_connected")

    run(test())
    log.until("1 undelivered, the first to odds_updates: ")


def test_cancelled_scrape_delivers_what_it_published(hub: Hub) -> None:
    async def test() -> None:
        async with AsyncPublisher(hub.url, TOKEN, Options(window=3600.0)) as publisher:

            async def scrape() -> None:
                await publisher.publish(TOPIC, 1)
                await asyncio.Event().wait()

            scraping = asyncio.create_task(scrape())
            await asyncio.sleep(0)
            scraping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await scraping
        assert [message["data"] for message in hub.history()] == [1]

    run(test())


def test_concurrent_tasks_keep_their_own_order(hub: Hub) -> None:
    async def test() -> None:
        async with AsyncPublisher(hub.url, TOKEN, Options(queue_messages=50, batch_messages=20)) as publisher:

            async def write(writer: int) -> None:
                for number in range(200):
                    await publisher.publish(TOPIC, [writer, number], key=str(writer))

            await asyncio.gather(*(write(writer) for writer in range(20)))
        came: dict[int, list[int]] = {}
        for message in hub.history():
            writer, number = message["data"]
            came.setdefault(writer, []).append(number)
        assert came == {writer: list(range(200)) for writer in range(20)}

    run(test())


def test_callback_on_loop_publishes_without_waiting(hub: Hub, links: Callable[[Hub], Link]) -> None:
    async def test() -> None:
        link = links(hub)
        link.faults += [STALL]
        async with AsyncPublisher(link.url, TOKEN, Options(queue_messages=2, window=0.0)) as publisher:
            publisher.publish_nowait(TOPIC, 1)
            publisher.publish_nowait(TOPIC, 2)
            with pytest.raises(QueueFull):
                publisher.publish_nowait(TOPIC, 3)
            await arrival(link)
            link.release()
        assert [message["data"] for message in hub.history()] == [1, 2]

    run(test())


def test_delivery_error_does_not_hide_error_in_context(hub: Hub) -> None:
    async def test(error: Exception | None) -> None:
        async with AsyncPublisher(hub.url, "wrong", FAST) as publisher:
            await publisher.publish(TOPIC, 1)
            if error is not None:
                raise error

    with pytest.raises(KeyError, match="mine"):
        run(test(KeyError("mine")))
    with pytest.raises(DeliveryError):
        run(test(None))


def test_publisher_belongs_to_one_loop_and_is_entered_once(hub: Hub) -> None:
    publisher = AsyncPublisher(hub.url, TOKEN, FAST)

    async def enter() -> None:
        with pytest.raises(PublisherClosed, match="use 'async with'"):
            await publisher.publish(TOPIC, 1)
        async with publisher:
            with pytest.raises(RuntimeError, match="only once"):
                await publisher.__aenter__()

    async def elsewhere() -> None:
        for call in (publisher.publish(TOPIC, 1), publisher.flush(), publisher.close(), publisher.broadcast("a", 1)):
            with pytest.raises(RuntimeError, match="another event loop"):
                await call

    assert repr(publisher) == f"<AsyncPublisher {hub.url} not entered>"
    run(enter())
    run(elsewhere())
    assert repr(publisher) == f"<AsyncPublisher {hub.url} closed>"


def test_publisher_never_entered_can_be_closed(hub: Hub) -> None:
    async def test() -> None:
        publisher = AsyncPublisher(hub.url, TOKEN)
        await publisher.close()
        with pytest.raises(PublisherClosed):
            publisher.publish_nowait(TOPIC, 1)

    run(test())


def test_only_beginning_of_an_html_answer_is_read(hub: Hub, links: Callable[[Hub], Link]) -> None:
    async def test() -> None:
        link = links(hub)
        link.faults += [Answer(200, b"<html>" * 1_000_000)]
        server = Server(link.url, TOKEN, WITHIN, None)
        async with server:
            outcome = await server.post("/api/publish", b"[]")
        assert isinstance(outcome, Answered)
        assert outcome.body.startswith(b"<html>")
        assert len(outcome.body) < 1_000_000

    run(test())

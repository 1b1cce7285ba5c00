"""The Python code of docs/migrating.md: subscribers get the same before and after."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from hub import TOKEN, WITHIN, Hub
from oddswire import AsyncPublisher, DeliveryError, Options
from serving import serving

PAGE = (Path(__file__).parents[3] / "docs" / "migrating.md").read_text()
BLOCKS = {
    name: textwrap.dedent(code)
    for name, code in re.findall(r"^ *```python (\w+)\.py\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a code block of the page, with the environment variables of a running server."""
    for name, code in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ODDSWIRE_URL", hub.url)
    monkeypatch.setenv("ODDSWIRE_PUBLISH_TOKEN", TOKEN)
    yield importlib.import_module
    for name in BLOCKS:
        sys.modules.pop(name, None)


def test_every_python_block_of_the_page_is_run_here() -> None:
    assert PAGE.count("```python ") == len(BLOCKS)
    assert "```python\n" not in PAGE
    after = {"publishing", "after_websocket", "after_sse", "side_by_side"}
    assert set(BLOCKS) == {"scraper", "before_websocket", "before_sse"} | after


def post(url: str) -> Any:
    return httpx.post(f"{url}/scrapes", trust_env=False, timeout=WITHIN).raise_for_status().json()


def test_subscribers_get_the_same_as_from_connection_manager(module: Callable[[str], ModuleType], hub: Hub) -> None:
    app = module("before_websocket").app
    with serving(app) as url, connect(url.replace("http", "ws") + "/ws", proxy=None) as socket:
        post(url)
        before = [json.loads(socket.recv(timeout=WITHIN)) for _ in range(5)]
    with serving(module("after_websocket").app) as url, hub.subscriber() as subscriber:
        post(url)
        after = [json.loads(subscriber.recv(timeout=WITHIN)) for _ in range(5)]
    known = [{name: message[name] for name in ("type", "key", "data") if name in message} for message in after]
    assert known == before


def test_late_subscriber_gets_the_same_progress_of_a_run(
    module: Callable[[str], ModuleType], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_sse = module("before_sse")
    scrape = before_sse.scrape

    async def scrape_for_a_listener(*callbacks: Any) -> None:
        # A page that connects late misses messages of this application. On a busy machine this test would, too.
        while not any(before_sse.listeners.values()):  # noqa: ASYNC110  (the example has no event)
            await asyncio.sleep(0.01)
        await scrape(*callbacks)

    monkeypatch.setattr(before_sse, "scrape", scrape_for_a_listener)
    with serving(before_sse.app) as url:
        run = post(url)["scrape_run_id"]
        with httpx.stream("GET", f"{url}/scrapes/{run}/events", trust_env=False, timeout=WITHIN) as stream:
            before = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
    with serving(module("after_sse").app) as url:
        run = post(url)["scrape_run_id"]
        other = post(url)["scrape_run_id"]
    steps = [message["data"] for message in hub.history("scrape_progress") if message["key"] == run]
    assert steps[-len(before) :] == before
    assert [step["phase"] for step in steps] == ["starting", "scraping", "completed"]
    # Both runs are over. A new subscriber gets the latest progress of the run that it asks for.
    address = f"{hub.url}/api/sse?topics=scrape_progress/{run}&since=snapshot"
    with httpx.stream("GET", address, trust_env=False, timeout=WITHIN) as stream:
        events = (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: "))
        messages = [next(events) for _ in range(4)]
    assert [message["type"] for message in messages] == ["connection_ack", "catch_up", "scrape_progress", "caught_up"]
    assert messages[2]["data"] == before[-1]
    assert set(hub.state("scrape_progress")) == {run, other}


AFTER = pytest.mark.parametrize("name", ["after_websocket", "after_sse"])


async def scrape(after: ModuleType) -> None:
    """Runs a whole scrape, also if it continues in a task after the answer."""
    await after.start()
    await asyncio.gather(*getattr(after, "scrapes", ()))


@AFTER
def test_full_queue_does_not_end_the_scrape(
    module: Callable[[str], ModuleType], hub: Hub, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    after = module(name)
    hub.end()

    async def test() -> None:
        publisher = after.app.state.publisher = AsyncPublisher(hub.url, TOKEN, Options(queue_messages=1))
        with pytest.raises(DeliveryError):
            async with publisher:
                await scrape(after)
                await publisher.close(0.0)

    asyncio.run(test())
    assert caplog.text.count("not published to ") == 4


@AFTER
def test_wrong_token_ends_neither_scrape_nor_application(
    module: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    after = module(name)
    monkeypatch.setenv("ODDSWIRE_PUBLISH_TOKEN", "wrong")

    async def test() -> None:
        async with after.app.router.lifespan_context(after.app):
            await scrape(after)
            with pytest.raises(DeliveryError):
                await after.app.state.publisher.flush(WITHIN)
            # The server has refused the token by now.
            await scrape(after)
        async with after.app.router.lifespan_context(after.app):
            await scrape(after)

    asyncio.run(test())
    assert caplog.text.count("not published to ") == 5
    assert "at shutdown: 5 undelivered, the first to scrape_progress" in caplog.text


def test_mirror_serves_both_and_keeps_the_old_way_working(
    module: Callable[[str], ModuleType], hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    side_by_side = module("side_by_side")
    sent = []

    class Socket:
        async def send_json(self, message: object) -> None:
            sent.append(message)

    side_by_side.manager.active.append(Socket())

    async def test() -> None:
        async with AsyncPublisher(hub.url, TOKEN) as publisher:
            await side_by_side.on_odds(publisher, "a", {"home": 1.5})
        # The publisher is closed now, so the mirror logs the failure.
        await side_by_side.on_odds(publisher, "a", {"home": 1.6})

    asyncio.run(test())
    assert hub.state() == {"a": {"home": 1.5}}
    assert sent == [{"type": "odds_update", "key": "a", "data": {"home": home}} for home in (1.5, 1.6)]
    assert "not mirrored to odds_updates: the publisher is closed" in caplog.text

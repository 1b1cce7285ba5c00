"""The FastAPI example under a real uvicorn: its SSE works as before, and oddswire gets the same messages."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from fastapi_app import ScrapeProgress, app
from hub import TOKEN, WITHIN, Hub
from serving import serving

PAGES = [{"8301/1x2/betpawa": {"home": 1.85}, "8301/1x2/other": {"home": 1.9}}, {"8302/1x2/betpawa": {"home": 2.5}}]


def scrape(url: str) -> list[dict[str, object]]:
    """Starts a scrape, and reads its progress over the existing SSE endpoint."""
    with httpx.Client(base_url=url, trust_env=False, timeout=WITHIN) as client:
        run = client.post("/scrapes", json=PAGES).raise_for_status().json()["scrape_run_id"]
        with client.stream("GET", f"/scrapes/{run}/progress") as stream:
            return [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]


def test_example_mirrors_progress_and_odds_and_keeps_sse(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODDSWIRE_URL", hub.url)
    monkeypatch.setenv("ODDSWIRE_PUBLISH_TOKEN", TOKEN)
    with serving(app) as url:
        over_sse = scrape(url)
    # The lifespan of the application has ended, so all messages were flushed.
    assert [message["data"] for message in hub.history("scrape_progress")] == over_sse
    assert [step["phase"] for step in over_sse] == ["starting", "discovery", "scraping", "scraping", "completed"]
    assert hub.state() == {key: odds for page in PAGES for key, odds in page.items()}
    assert {message["type"] for message in hub.history()} == {"odds_update"}


def test_unreachable_server_does_not_stop_the_example(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.end()
    monkeypatch.setenv("ODDSWIRE_URL", hub.url)
    monkeypatch.setenv("ODDSWIRE_PUBLISH_TOKEN", TOKEN)
    with serving(app) as url:
        assert scrape(url)[-1]["phase"] == "completed"
    assert "lost for oddswire: odds_updates/8301/1x2/betpawa: " in caplog.text


def test_example_sends_the_known_progress_fields() -> None:
    described = Path(__file__).parents[4] / "shared" / "data" / "README.md"
    if not described.exists():
        pytest.skip("../shared/data is not there")
    shape = next(line for line in described.read_text().splitlines() if line.startswith('`{"platform"'))
    known = json.loads(shape.split("`")[1])
    assert asdict(ScrapeProgress("starting", 0, 3)).keys() == known.keys()

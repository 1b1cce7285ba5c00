"""An existing FastAPI backend that scrapes and shows its progress over SSE, and now also publishes to oddswire.

The scrape, its progress callbacks and the SSE endpoint existed before and stay unchanged. The lines marked with
`oddswire` are new: one publisher for the lifetime of the application, and one more callback.

    ODDSWIRE_URL=http://localhost:8000 ODDSWIRE_PUBLISH_TOKEN=dev-token uvicorn fastapi_app:app
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from oddswire import AsyncPublisher, OddswireError, Options, Undelivered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

logger = logging.getLogger(__name__)


# The existing backend.


def now() -> str:
    """The current time in UTC, without a time zone, as the existing SSE clients expect it."""
    return datetime.now(timezone.utc).replace(tzinfo=None).isoformat()


@dataclass
class ScrapeProgress:
    """The progress of a scrape."""

    phase: str
    current: int
    total: int
    platform: str | None = None
    events_count: int = 0
    duration_ms: int | None = None
    message: str | None = None
    timestamp: str = field(default_factory=now)
    scrape_run_id: str | None = None
    elapsed_ms: int | None = None
    error: str | None = None


Odds = dict[str, Any]


class Run:
    """A scrape and the callbacks for its progress."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.progress: list[ScrapeProgress] = []
        self.on_progress: list[Callable[[ScrapeProgress], None]] = [self.progress.append]
        self.on_odds: list[Callable[[str, Odds], None]] = []
        self.changed = asyncio.Condition()

    async def tell(self, phase: str, current: int, events: int = 0) -> None:
        """Calls every callback with the progress."""
        step = ScrapeProgress(phase, current, 3, events_count=events, scrape_run_id=self.id)
        for callback in self.on_progress:
            callback(step)
        async with self.changed:
            self.changed.notify_all()


async def scrape(run: Run, pages: list[dict[str, Odds]]) -> None:
    """Reads the bookmakers' pages. In this example they come with the request, so that no bookmaker is needed."""
    await run.tell("starting", 0)
    await run.tell("discovery", 1)
    events: set[str] = set()
    for page in pages:
        for key, odds in page.items():
            events.add(key.partition("/")[0])
            for callback in run.on_odds:
                callback(key, odds)
        await run.tell("scraping", 2, len(events))
    await run.tell("completed", 3, len(events))


# New: the mirror into oddswire.


def mirror(run: Run, publisher: AsyncPublisher) -> None:
    """Publishes the progress and the odds. The callbacks are plain functions on the loop, so they must not wait. If
    oddswire cannot be reached or the queue is full, the scrape must still continue."""

    def progress(step: ScrapeProgress) -> None:
        publish(publisher, "scrape_progress", asdict(step))

    def odds(key: str, odds: Odds) -> None:
        publish(publisher, "odds_updates", odds, key=key, type="odds_update")

    run.on_progress.append(progress)
    run.on_odds.append(odds)


def publish(publisher: AsyncPublisher, topic: str, data: object, **fields: Any) -> None:
    """Queues a message. If that fails, logs the reason."""
    try:
        publisher.publish_nowait(topic, data, **fields)
    except (OddswireError, ValueError, TypeError) as error:
        logger.warning("not published to %s: %s", topic, error)


def undelivered(report: Undelivered) -> None:
    """Logs a message that oddswire will not get."""
    logger.error("lost for oddswire: %s: %s", report.message.address, report.problem)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens one publisher before the first request, and flushes it after the last."""
    url = os.environ.get("ODDSWIRE_URL", "http://localhost:8000")
    token = os.environ["ODDSWIRE_PUBLISH_TOKEN"]
    # conflate: a superseded price has no value. Progress has no key, so each of its steps is sent.
    options = Options(conflate=True, close_timeout=2.0)
    try:
        async with AsyncPublisher(url, token, options, on_undelivered=undelivered) as app.state.publisher:  # oddswire
            yield
    except OddswireError as error:
        # `undelivered` has logged every message already. The application still ends normally.
        logger.warning("at shutdown: %s", error)


app = FastAPI(lifespan=lifespan)
app.state.runs = {}


@app.post("/scrapes", status_code=201)
async def start(request: Request, pages: list[dict[str, Odds]]) -> dict[str, str]:
    """Starts a scrape."""
    run = Run()
    mirror(run, request.app.state.publisher)  # oddswire
    request.app.state.runs[run.id] = run, asyncio.create_task(scrape(run, pages))
    return {"scrape_run_id": run.id}


@app.get("/scrapes/{run_id}/progress")
async def watch(request: Request, run_id: str) -> StreamingResponse:
    """The existing endpoint: the progress of one run over SSE."""
    if run_id not in request.app.state.runs:
        raise HTTPException(404, f"no such scrape: {run_id}")
    run, _ = request.app.state.runs[run_id]

    async def events() -> AsyncIterator[str]:
        sent = 0
        while True:
            async with run.changed:
                while len(run.progress) == sent:
                    await run.changed.wait()
            for step in run.progress[sent:]:
                sent += 1
                yield f"data: {json.dumps(asdict(step))}\n\n"
                if step.phase in ("completed", "failed") and step.platform is None:
                    return

    return StreamingResponse(events(), media_type="text/event-stream")

"""The fixtures: a server, links to it, publishers of both kinds, the log."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from hub import BINARY, Hub
from kinds import Log, Publishers
from link import Link

# No deadline, because the machine may be busy. Derandomized, so that only a change of the code can cause a new failure.
hypothesis.settings.register_profile("oddswire", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("oddswire")


@pytest.fixture(scope="session", autouse=True)
def _surroundings() -> None:
    # A proxy from the environment variables could not reach this machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    assert BINARY.exists(), f"{BINARY} is missing: cargo build, or name it with ODDSWIRE_BIN"


@pytest.fixture
def hubs() -> Iterator[Callable[..., Hub]]:
    """Starts servers."""
    with ExitStack() as stack:

        def start(**settings: str | None) -> Hub:
            hub = Hub(**settings)
            stack.callback(hub.close)
            hub.start()
            return hub

        yield start


@pytest.fixture
def hub(hubs: Callable[..., Hub]) -> Hub:
    """A server with the engine memory."""
    return hubs()


@pytest.fixture
def durable(hubs: Callable[..., Hub], tmp_path: Path) -> Hub:
    """A server with the engine journal."""
    return hubs(engine="journal", data_dir=str(tmp_path))


@pytest.fixture
def links() -> Iterator[Callable[[Hub], Link]]:
    """Makes links to servers."""
    with ExitStack() as stack:

        def make(hub: Hub) -> Link:
            link = Link(hub.address)
            stack.callback(link.close)
            return link

        yield make


@pytest.fixture(params=["sync", "async"])
def publishers(request: pytest.FixtureRequest, links: object) -> Iterator[Publishers]:  # noqa: ARG001 - closed first.
    """Makes publishers. Each test runs with one kind of publisher, and again with the other kind."""
    publishers = Publishers(request.param)
    yield publishers
    publishers.close()


@pytest.fixture
def log() -> Iterator[Log]:
    """The log of the package."""
    log, logger = Log(), logging.getLogger("oddswire")
    logger.addHandler(log)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)

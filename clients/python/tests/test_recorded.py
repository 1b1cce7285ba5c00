"""Recorded odds of real bookmakers arrive byte for byte, also with a restart in between."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hub import WITHIN, Hub
from kinds import Publishers

DATA = Path(__file__).parents[4] / "shared" / "data"


def recorded(name: str) -> list[tuple[str, bytes]]:
    """Key and data of each line, with the exact bytes of the data."""
    if not (DATA / name).exists():
        pytest.skip(f"../shared/data/{name} does not exist")
    lines = []
    with gzip.open(DATA / name, "rb") as file:
        for line in file:
            head, _, rest = line.rstrip().partition(b',"data":')
            lines.append((json.loads(head + b"}")["key"], rest.removesuffix(b"}")))
    return lines


@pytest.mark.parametrize("name", ["odds_updates.ndjson.gz", "odds_updates_betfair.ndjson.gz"])
def test_recorded_odds_survive_a_restart_byte_for_byte(durable: Hub, publishers: Publishers, name: str) -> None:
    lines = recorded(name)[:4000]
    publisher = publishers(durable.url)
    expected: list[bytes] = []
    latest: dict[str, bytes] = {}
    for number, (key, data) in enumerate(lines):
        if number == len(lines) // 2:
            durable.end()
            durable.start()
        publisher.publish("odds_updates", data, key=key)
        if latest.get(key) != data:
            expected.append(data)
        latest[key] = data
    publisher.flush(WITHIN)
    texts = durable.texts()
    assert len(texts) == len(expected)
    for text, data in zip(texts, expected, strict=True):
        assert text.endswith(f'"data":{data.decode()}}}')
    assert publisher.stats.unchanged == len(lines) - len(expected)

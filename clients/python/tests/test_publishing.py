"""Messages that the server takes or refuses, and the rest of their batch."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import pytest

from hub import WITHIN, Hub
from kinds import Log, Publishers
from link import Answer, Link
from oddswire import BroadcastError, DeliveryError, PublisherClosed, Refused

TOPIC = "odds_updates"


def test_message_arrives_with_all_its_fields(hub: Hub, publishers: Publishers) -> None:
    publisher = publishers(hub.url)
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    publisher.publish(TOPIC, {"home": 1.85, "name": "Beşiktaş"}, key="8301/1x2/betpawa", type="odds_update")
    publisher.publish(TOPIC, [1, None, True], key="8301/1x2/other", expires_at=soon)
    publisher.publish("scrape_progress", {"phase": "starting"})
    publisher.flush(WITHIN)
    first, second = hub.history()
    assert (first["type"], first["key"]) == ("odds_update", "8301/1x2/betpawa")
    assert first["data"] == {"home": 1.85, "name": "Beşiktaş"}
    assert (second["type"], second["data"]) == (TOPIC, [1, None, True])
    [progress] = hub.history("scrape_progress")
    assert (progress["data"], "key" in progress) == ({"phase": "starting"}, False)
    assert publisher.stats.position == progress["id"]


def test_bytes_reach_subscribers_byte_for_byte(hub: Hub, publishers: Publishers) -> None:
    publisher = publishers(hub.url)
    cases = ["1.50", "1E+05", "12345678901234567890.10", r'"\u0041\/ é 😀"', '{ "b" :1,"a":[ ],"b":2 }', "[1,\r\n2]"]
    for data in cases:
        publisher.publish(TOPIC, data.encode())
    publisher.flush(WITHIN)
    for data, text in zip(cases, hub.texts(), strict=True):
        assert text.endswith(f'"data":{data}}}')


def test_unchanged_price_is_counted_and_null_deletes(hub: Hub, publishers: Publishers) -> None:
    publisher = publishers(hub.url)
    for data in (1, 1, 2, None):
        publisher.publish(TOPIC, data, key="a")
    publisher.flush(WITHIN)
    assert publisher.stats.unchanged == 1
    assert hub.state() == {}


def test_refused_message_is_removed_and_the_rest_delivered(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    publisher = publishers(link.url, window=1.0)
    for topic, data in [(TOPIC, 0), ("nope", 1), (TOPIC, 2), ("scrape_progress", 3), ("neither", 4), (TOPIC, 5)]:
        publisher.publish(topic, data)
    publisher.publish(TOPIC, 6, type="pong")
    with pytest.raises(DeliveryError, match=r"3 undelivered, the first to nope: 400 unknown_topic: .*odds_updates"):
        publisher.flush(WITHIN)
    assert [message["data"] for message in hub.history()] == [0, 2, 5]
    assert [message["data"] for message in hub.history("scrape_progress")] == [3]
    reported = [(report.message.topic, report.message.data, report.problem.code) for report in publishers.undelivered]
    assert reported == [
        ("nope", b"1", "unknown_topic"),
        ("neither", b"4", "unknown_topic"),
        (TOPIC, b"6", "invalid_message"),
    ]
    assert len({request.key for request in link.requests}) == len(link.requests) == 4, "each body has a key of its own"
    publisher.flush(WITHIN)


def test_message_over_the_server_limit_is_removed(hubs: Callable[..., Hub], publishers: Publishers) -> None:
    hub = hubs(publish_message_bytes="1KiB")
    publisher = publishers(hub.url, window=1.0)
    for data in ("first", "x" * 2000, "last"):
        publisher.publish(TOPIC, data)
    with pytest.raises(DeliveryError, match="413 message_too_large: .*publish-message-bytes"):
        publisher.flush(WITHIN)
    assert [message["data"] for message in hub.history()] == ["first", "last"]


def test_batch_over_the_server_limit_is_divided_in_order(hubs: Callable[..., Hub], publishers: Publishers) -> None:
    hub = hubs(publish_body_bytes="2KiB", publish_message_bytes="1KiB")
    publisher = publishers(hub.url, window=1.0, batch_messages=100)
    for number in range(100):
        publisher.publish(TOPIC, [number, "x" * 100])
    publisher.flush(WITHIN)
    assert [message["data"][0] for message in hub.history()] == list(range(100))


def test_message_refused_by_a_proxy_is_found_by_halving(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    # The proxy refuses the whole batch, then its first half, then the first half of that half, which is the first
    # message.
    link.faults += [Answer(400)] * 3
    publisher = publishers(link.url, window=1.0)
    for number in range(4):
        publisher.publish(TOPIC, number)
    with pytest.raises(DeliveryError, match="1 undelivered, the first to odds_updates: 400 http_error"):
        publisher.flush(WITHIN)
    assert [report.message.data for report in publishers.undelivered] == [b"0"]
    assert [message["data"] for message in hub.history()] == [1, 2, 3]


def test_wrong_token_is_final_and_never_shown(hub: Hub, publishers: Publishers, log: Log) -> None:
    publisher = publishers(hub.url, token="wrong-token")
    for number in range(5):
        publisher.publish(TOPIC, number)
    with pytest.raises(DeliveryError, match="5 undelivered, .*401 unauthorized") as raised:
        publisher.flush(WITHIN)
    assert len(publishers.undelivered) == 5
    with pytest.raises(Refused, match="401 unauthorized: the bearer token belongs to no publisher"):
        publisher.publish(TOPIC, 6)
    with pytest.raises(Refused, match="401 unauthorized"):
        publisher.broadcast("notice", 1)
    log.until("5 undelivered, the first to odds_updates: 401 unauthorized")
    assert "wrong-token" not in "\n".join([*log.lines, str(raised.value)])


def test_disabled_publishing_names_the_setting_to_enable_it(hubs: Callable[..., Hub], publishers: Publishers) -> None:
    hub = hubs(publish_token=None)
    publisher = publishers(hub.url)
    publisher.publish(TOPIC, 1)
    with pytest.raises(DeliveryError, match="403 publishing_disabled: .*publish-token"):
        publisher.flush(WITHIN)


def test_publisher_limited_to_topics_continues_with_those(
    hubs: Callable[..., Hub], publishers: Publishers, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("scraper:limited-token:scrape_progress\n")
    hub = hubs(publish_token_file=str(tokens), publish_token=None)
    publisher = publishers(hub.url, token="limited-token")
    for topic in ("scrape_progress", TOPIC, "scrape_progress", TOPIC):
        publisher.publish(topic, topic)
    with pytest.raises(DeliveryError, match="2 undelivered, .*403 forbidden: the publisher 'scraper' may not"):
        publisher.flush(WITHIN)
    assert len(hub.history("scrape_progress")) == 2
    with pytest.raises(BroadcastError, match="403 forbidden"):
        publisher.broadcast("notice", 1)


@pytest.mark.parametrize("path", ["/api", "/nowhere"])
def test_wrong_path_in_url_is_final(hub: Hub, publishers: Publishers, path: str) -> None:
    publisher = publishers(hub.url + path)
    publisher.publish(TOPIC, 1)
    with pytest.raises(DeliveryError, match="404 not_found: unknown path"):
        publisher.flush(WITHIN)


def test_redirect_is_not_followed_with_the_token(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link, elsewhere = links(hub), links(hub)
    link.faults += [Answer(307, headers=(("Location", elsewhere.url),))]
    publisher = publishers(link.url)
    publisher.publish(TOPIC, 1)
    with pytest.raises(DeliveryError, match="307 http_error"):
        publisher.flush(WITHIN)
    assert elsewhere.requests == []


def test_html_answer_is_final_and_shortened(hub: Hub, links: Callable[[Hub], Link], publishers: Publishers) -> None:
    link = links(hub)
    link.faults += [Answer(200, b"<html>" * 1_000_000)]
    publisher = publishers(link.url)
    publisher.publish(TOPIC, 1)
    with pytest.raises(DeliveryError, match="200 not_oddswire: this answer is not from oddswire: '<html>") as raised:
        publisher.flush(WITHIN)
    assert len(str(raised.value)) < 300


def test_broadcast_reaches_every_client_and_counts_them(hub: Hub, publishers: Publishers) -> None:
    publisher = publishers(hub.url)
    with hub.subscriber() as one, hub.subscriber() as other:
        assert publisher.broadcast("maintenance", b'{"at": 1.50}') == 2
        for subscriber in (one, other):
            text = subscriber.recv(timeout=WITHIN)
            assert json.loads(text)["type"] == "maintenance"
            assert text.endswith('"data":{"at": 1.50}}')


def test_unconfirmed_broadcast_raises_and_is_not_retried(
    hub: Hub, links: Callable[[Hub], Link], publishers: Publishers
) -> None:
    link = links(hub)
    link.faults += [Answer(503)]
    publisher = publishers(link.url)
    with pytest.raises(BroadcastError, match="503 http_error"):
        publisher.broadcast("notice", 1)
    assert len(link.requests) == 1
    with pytest.raises(BroadcastError, match="the server's own: use another one"):
        publisher.broadcast("pong", 1)
    for type, data in [("", 1), ("notice", float("nan"))]:
        with pytest.raises(ValueError, match="type|Out of range"):
            publisher.broadcast(type, data)
    hub.end()
    with pytest.raises(BroadcastError, match="502"):
        publisher.broadcast("notice", 1)
    publisher.close()
    with pytest.raises(PublisherClosed):
        publisher.broadcast("notice", 1)


def test_concurrent_publishers_keep_their_own_order(hub: Hub, publishers: Publishers) -> None:
    publisher = publishers(hub.url, batch_messages=50, queue_messages=200)
    seed = int(os.environ.get("TEST_SEED", "0")) or Random().randrange(1, 2**32)
    print(f"TEST_SEED={seed}")

    def write(writer: int) -> None:
        random = Random(seed + writer)
        for number in range(300):
            publisher.publish(TOPIC, [writer, number], key=f"{writer}/{random.randrange(5)}")

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(2 * WITHIN)
    publisher.flush(WITHIN)
    came: dict[int, list[int]] = {}
    for message in hub.history():
        writer, number = message["data"]
        came.setdefault(writer, []).append(number)
    assert came == {writer: list(range(300)) for writer in range(8)}

"""Tests a running oddswire with the Python package `websockets` (version 17), as a subscriber's service would use it.

Usage: websockets_client.py WS_URL PUBLISH_BASE TOKEN
as in: websockets_client.py ws://127.0.0.1:8000/api/ws http://127.0.0.1:8000 dev-token

Prints one `ok: …` line for each step and exits with 0. At the first difference from the contract, it prints the
expected and the received value and exits with 1. It expects the default topics and no other publisher.
"""

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.request

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

# The timeout of a single wait, in seconds. A wait takes milliseconds, except on a busy CI machine.
TIMEOUT = 10

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
POSITION = re.compile(r"\d+-\d+")


class Failure(Exception):
    """The server's behaviour differs from its contract."""

    def __init__(self, expected, came):
        super().__init__(f"expected {expected}, got {came}")


def ok(step):
    print(f"ok: {step}", flush=True)


def check(holds, expected, came):
    if not holds:
        raise Failure(expected, came)


def receive(ws, expected):
    """The next message, as text and as parsed JSON. The text is for comparing `data` byte for byte."""
    try:
        text = ws.recv(timeout=TIMEOUT)
    except TimeoutError:
        raise Failure(expected, f"nothing within {TIMEOUT} s") from None
    except ConnectionClosed as closed:
        raise Failure(expected, f"the end of the connection: {closed}") from None
    check(isinstance(text, str), f"{expected} as a text message", repr(text))
    try:
        message = json.loads(text)
    except ValueError as error:
        raise Failure(f"{expected} as JSON", f"{text!r} ({error})") from None
    check(
        isinstance(message, dict)
        and isinstance(message.get("data"), dict)
        and TIMESTAMP.fullmatch(str(message.get("timestamp"))),
        f"{expected} with a `data` object and an RFC 3339 `timestamp` in UTC with milliseconds",
        text,
    )
    return text, message


def receive_topics(ws, kind, topics):
    """A `connection_ack` or `subscription_update`. It contains the topics at the top level and in `data`, because some
    clients read only one of the two. Both lists are sorted, so they are compared unchanged."""
    expected = f"a {kind} with the topics {topics} at the top level and in `data`"
    text, message = receive(ws, expected)
    check(
        message.get("type") == kind and message.get("topics") == topics and message["data"].get("topics") == topics,
        expected,
        text,
    )
    check(POSITION.fullmatch(str(message["data"].get("position"))), f"{expected} and a position", text)
    return text, message


def ping(ws):
    """Sends a `ping` message. Its answer must be the next message, which proves that the server sent nothing else."""
    ws.send('{"type":"ping"}')
    text, message = receive(ws, "a pong and nothing before it")
    check(message.get("type") == "pong" and message["data"] == {}, "a pong with empty data and nothing before it", text)


def publish(base, token, topic, key, kind, data):
    """Publishes one message with the given text as `data`, and returns its position."""
    fields = {"topic": topic, "key": key, "type": kind}
    head = json.dumps({name: value for name, value in fields.items() if value is not None})
    request = urllib.request.Request(
        base.rstrip("/") + "/api/publish",
        data=f'{head[:-1]}, "data": {data}}}'.encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    # The server is on this machine, so ignore any proxy in the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    expected = "200 from /api/publish with one message accepted and its position"
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            status, body = response.status, response.read().decode()
    except urllib.error.HTTPError as refusal:
        raise Failure(expected, f"{refusal.code} {refusal.read().decode(errors='replace')}") from None
    except OSError as error:
        raise Failure(expected, repr(error)) from None
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    check(
        status == 200
        and isinstance(answer, dict)
        and answer.get("accepted") == 1
        and POSITION.fullmatch(str(answer.get("position"))),
        expected,
        f"{status} {body}",
    )
    return answer["position"]


def receive_published(ws, position, topic, key, kind, data):
    """Receives the published message, and checks its position and, byte for byte, its `data`."""
    expected = f"the {kind} {position} of {topic} with the key {key}"
    text, message = receive(ws, expected)
    envelope = {name: message.get(name) for name in ("type", "topic", "id", "key")}
    check(envelope == {"type": kind, "topic": topic, "id": position, "key": key}, expected, text)
    check(("key" in message) == (key is not None), f"{expected}, and no `key` where there is none", text)
    check(f'"data":{data}' in text, f"{expected} and this `data`, byte for byte: {data}", text)


def odds(home):
    """Odds that a JSON parser would change: spaces, exponents, more digits than a double, escapes next to UTF-8, and
    unsorted and duplicate keys. The time makes each run's odds different, since unchanged data is not delivered."""
    return (
        f'{{ "seen_at":{time.time_ns()},  "home" : {home}, "draw":3.10e0,"away":12345678901234567890.10,'
        r'"name":"Beşiktaş \u2013 A\/B \ud83d\ude00 😀", "a":[ ],"a":null }'
    )


def exercise(ws_url, base, token):
    separator = "&" if "?" in ws_url else "?"
    url = f"{ws_url}{separator}topics=odds_updates"
    # Switch off the library's keep-alive, so that only this test sends pings. All other options have their defaults,
    # such as the offer of compression, which the server may accept or ignore.
    with connect(url, proxy=None, ping_interval=None, open_timeout=TIMEOUT, close_timeout=TIMEOUT) as ws:
        text, ack = receive_topics(ws, "connection_ack", ["odds_updates"])
        connection = ack["data"].get("connection")
        check(isinstance(connection, str) and connection, "a connection_ack that names the connection", text)
        ok("connection_ack is the first message and has the topics twice")

        ping(ws)
        ok("ping is answered with pong")

        answered = ws.ping(b"oddswire").wait(TIMEOUT)
        check(answered, "a pong frame with the payload of the ping frame", f"none within {TIMEOUT} s")
        ok("a ping frame is answered with a pong frame")

        ws.send('{"type":"subscribe","topics":["scrape_progress","odds_updates/8301"]}')
        receive_topics(ws, "subscription_update", ["odds_updates", "odds_updates/8301", "scrape_progress"])
        ok("subscribe is answered with all current topics, sorted")

        data = odds("1.50")
        sent = ("odds_updates", "8301/1x2/betpawa", "odds_update")
        receive_published(ws, publish(base, token, *sent, data), *sent, data)
        ping(ws)
        ok("a published message arrives once, byte for byte, although two subscriptions match it")

        ws.send('{"type":"unsubscribe","topics":["odds_updates"]}')
        receive_topics(ws, "subscription_update", ["odds_updates/8301", "scrape_progress"])
        ok("unsubscribe is answered with the topics that are left")

        publish(base, token, "odds_updates", "9999/1x2/betpawa", "odds_update", odds("2.25"))
        data = odds("1.75")
        receive_published(ws, publish(base, token, *sent, data), *sent, data)
        data = f'{{"phase":"scraping", "current":2,"total":3,"platform":null,"elapsed_ms":{time.time_ns()}}}'
        sent = ("scrape_progress", None, "scrape_progress")
        receive_published(ws, publish(base, token, *sent, data), *sent, data)
        ok("only messages of the current subscriptions arrive, in order")

        for ignored in ("this is { not JSON", "[1,2,3]", '"ping"', b"\x00\xff\xfe", '{"type":"no_such_type"}'):
            ws.send(ignored)
        ping(ws)
        ok("garbage, non-objects, binary and unknown types are ignored")

        ws.send('{"type":"subscribe","topics":["no_such_topic"]}')
        receive_unknown_topic(ws, ["odds_updates/8301", "scrape_progress"])
        ping(ws)
        ok("an unknown topic gets the error unknown_topic and the connection stays open")

        ws.close(1000, "done")
        check(ws.close_code == 1000, "the server's close frame with code 1000", f"{ws.close_code} {ws.close_reason!r}")
        ok("a normal close is answered with code 1000")


def receive_unknown_topic(ws, topics):
    """Receives one error that names the unknown topic and the known ones. The server may also confirm the unchanged
    subscriptions, before or after it. A ping marks the end of the answer."""
    ws.send('{"type":"ping"}')
    expected = "one error with the code unknown_topic, naming no_such_topic and the known topics"
    errors = []
    while True:
        text, message = receive(ws, expected)
        if message.get("type") == "pong":
            break
        if message.get("type") == "subscription_update":
            check(message.get("topics") == topics, f"unchanged subscriptions, {topics}", text)
            continue
        data, detail = message["data"], str(message["data"].get("detail"))
        check(
            message.get("type") == "error"
            and data.get("code") == "unknown_topic"
            and data.get("topics") == ["no_such_topic"]
            and "odds_updates" in detail
            and "scrape_progress" in detail,
            expected,
            text,
        )
        errors.append(text)
    check(len(errors) == 1, expected, errors)


def main():
    parser = argparse.ArgumentParser(description="Checks a running oddswire with the Python package websockets.")
    parser.add_argument("ws_url", help="the WebSocket endpoint, as in ws://127.0.0.1:8000/api/ws")
    parser.add_argument("publish_base", help="the base URL of /api/publish, as in http://127.0.0.1:8000")
    parser.add_argument("token", help="the publish token")
    arguments = parser.parse_args()
    try:
        exercise(arguments.ws_url, arguments.publish_base, arguments.token)
    except Failure as failure:
        print(f"failed: {failure}", flush=True)
    except (WebSocketException, OSError) as error:
        # A refused handshake, or a connection lost while sending. TimeoutError is a subclass of OSError.
        print(f"failed: expected an open connection, got {error!r}", flush=True)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())

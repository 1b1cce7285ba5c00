"""Errors that the publishing line raises, and the exact bytes that are sent."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire import Message, Options

TOPIC = "odds_updates"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, st.none() | st.just("8301/1x2/betpawa"), st.none() | st.just('ty"pe'))
def test_message_is_one_json_object_of_its_stated_size(data: object, key: str | None, type: str | None) -> None:
    if data is None:
        key = "a"
    message = Message.of(TOPIC, data, key, type)
    expected = {"topic": TOPIC, "key": key, "type": type, "data": data}
    optional = {name: value for name, value in expected.items() if name in ("topic", "data") or value is not None}
    assert json.loads(message.encoded) == optional
    assert message.size == len(message.encoded) + 1


@pytest.mark.parametrize(
    "data",
    [
        "1.50",
        "1E+05",
        "12345678901234567890.10",
        r'"\u0041\/\ud83d\ude00 é 😀"',
        '{ "b" :1,"a":[ ],"b":2 }',
        "[1,\r\n2]",
    ]
    + ["1" * 5000, " null "],
)
def test_bytes_are_sent_unchanged(data: str) -> None:
    for given_as in (data.encode(), bytearray(data.encode()), memoryview(data.encode())):
        message = Message.of(TOPIC, given_as, "a")
        assert message.data == data.encode()
        assert b'"data":' + data.encode() + b"}" in message.encoded


def test_later_change_of_a_buffer_has_no_effect() -> None:
    data = bytearray(b"1")
    message = Message.of(TOPIC, data, "a")
    data[0] = ord("2")
    assert message.data == b"1"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'1},{"topic":"scrape_progress","data":2', "expected one JSON value"),
        (b"", "expected one JSON value"),
        (b"{'a':1}", "expected one JSON value"),
        (b"NaN", "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'"\xff"', "expected UTF-8"),
        (b"\xef\xbb\xbf1", "expected one JSON value"),
        ('"é"'.encode("utf-16"), "expected UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (float("nan"), "Out of range float values are not JSON compliant"),
        ([1, {"a": float("inf")}], "Out of range float values are not JSON compliant"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_data_that_is_not_json_is_refused(data: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Message.of(TOPIC, data, "a")


def test_circular_or_unencodable_data_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="Circular"):
        Message.of(TOPIC, endless)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        Message.of(TOPIC, deep)
    with pytest.raises(TypeError, match="datetime is not JSON serializable"):
        Message.of(TOPIC, {"at": datetime.now(timezone.utc)})


@pytest.mark.parametrize("topic", ["", "Odds", "odds/8301", "odds-updates", "a" * 65, "odds\n", "ö"])
def test_invalid_topic_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match=r"invalid topic '.*': expected 1 to 64 bytes of a-z, 0-9 and _"):
        Message.of(topic, 1)


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "a\nb", "a\x00", "a\x85", "k" * 257, "é" * 128 + "k", "\ud800"]
)
def test_invalid_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="invalid key .*: expected 1 to 256 bytes"):
        Message.of(TOPIC, 1, key)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"topic": None}, "invalid topic None: expected a str, not NoneType"),
        ({"topic": b"odds_updates"}, "invalid topic b'odds_updates': expected a str, not bytes"),
        ({"key": 8301}, "invalid key 8301: expected a str, not int"),
        ({"key": b"a"}, "invalid key b'a': expected a str, not bytes"),
        ({"type": 5}, "invalid type 5: expected a str, not int"),
        ({"expires_at": "2999-01-01"}, "invalid expires_at '2999-01-01': expected a datetime with a time zone"),
        ({"expires_at": date(2999, 1, 1)}, r"invalid expires_at datetime.date\(2999, 1, 1\): expected"),
    ],
)
def test_field_of_wrong_type_is_refused_with_its_value(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says) as raised:
        Message.of(**{"topic": TOPIC, "data": 1, "key": "a", **fields})
    assert len(str(raised.value)) < 250


def test_keys_and_types_are_measured_in_bytes() -> None:
    assert Message.of(TOPIC, 1, "é" * 128, "é" * 32).key == "é" * 128
    for type in ("", "t" * 65, "é" * 32 + "t", "a\tb", "\x7f"):
        with pytest.raises(ValueError, match="invalid type "):
            Message.of(TOPIC, 1, "a", type)


def test_null_and_expires_at_need_a_key() -> None:
    moment = datetime(2999, 1, 1, tzinfo=timezone.utc)
    for data in (None, b"null", b" null\n"):
        with pytest.raises(ValueError, match="null without a key"):
            Message.of(TOPIC, data)
    with pytest.raises(ValueError, match="invalid expires_at without a key"):
        Message.of(TOPIC, 1, expires_at=moment)


def test_expires_at_is_sent_in_utc_and_needs_a_time_zone() -> None:
    two_hours_east = timezone(timedelta(hours=2))
    moment = datetime(2999, 2, 6, 21, 0, 0, 123456, two_hours_east)
    message = json.loads(Message.of(TOPIC, 1, "a", expires_at=moment).encoded)
    assert message["expires_at"] == "2999-02-06T19:00:00.123Z"
    with pytest.raises(ValueError, match="expected a time zone"):
        Message.of(TOPIC, 1, "a", expires_at=datetime(2999, 1, 1))


def test_error_shows_only_the_beginning_of_a_long_value() -> None:
    with pytest.raises(ValueError, match="topic") as raised:
        Message.of("X" * 100_000, 1)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"batch_messages": 0}, "invalid batch_messages 0: expected a whole number, 1 to "),
        ({"batch_messages": 1.5}, "invalid batch_messages 1.5"),
        ({"queue_bytes": True}, "invalid queue_bytes True"),
        ({"window": -1}, "invalid window -1: expected 0 to 3600"),
        ({"window": float("nan")}, "invalid window nan"),
        ({"backoff": 0}, "invalid backoff 0"),
        ({"on_full": "drop"}, "invalid on_full 'drop': expected 'block' or 'raise'"),
        ({"retry_for": 291}, "together at most 300 s"),
        ({"retry_for": "4m"}, "invalid retry_for '4m'"),
    ],
)
def test_option_out_of_range_is_refused_by_name(changed: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Options(**changed)  # type: ignore[arg-type]

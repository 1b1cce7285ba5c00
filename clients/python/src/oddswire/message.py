"""A message: checked and encoded once, when it is published.

Invariant: what can be known to be refused is refused here, with a ValueError or TypeError at the line that published
it. What only the server knows (its topics, its limits) comes back through `on_undelivered`.
"""

from __future__ import annotations

import json
import re
import reprlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import NoReturn

MAX_KEY_BYTES = 256
MAX_TYPE_BYTES = 64

_TOPIC = re.compile(r"[a-z0-9_]{1,64}")
# What Rust's char::is_control takes for one, because the server goes by that: the general category Cc.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Message:
    """One message to publish."""

    topic: str
    data: bytes = field(repr=False)
    """JSON as it goes to subscribers, byte for byte."""
    key: str | None = None
    type: str | None = None
    expires_at: datetime | None = None
    _head: bytes = field(default=b"", repr=False)
    _tail: bytes = field(default=b"", repr=False)

    @staticmethod
    def of(
        topic: str,
        data: object,
        key: str | None = None,
        type: str | None = None,
        expires_at: datetime | None = None,
    ) -> Message:
        """Checks and encodes a message. Bytes are JSON already; everything else is encoded here."""
        check_topic(topic)
        if key is not None:
            check_key(key)
        if type is not None:
            check_type(type)
        encoded = encode(data)
        if key is None and encoded.strip() == b"null":
            raise ValueError("data is null without a key: null deletes a key, so name the key or publish data")
        if key is None and expires_at is not None:
            raise ValueError("expires_at without a key: only a key's value can expire")
        named = {name: text for name, text in (("key", key), ("type", type)) if text is not None}
        head = _encode({"topic": topic, **named})[:-1] + ',"data":'
        tail = "}" if expires_at is None else f',"expires_at":"{rfc3339(expires_at)}"}}'
        return Message(topic, encoded, key, type, expires_at, head.encode(), tail.encode())

    @property
    def encoded(self) -> bytes:
        """The object that stands in the body of a request."""
        return self._head + self.data + self._tail

    @property
    def size(self) -> int:
        """Its length in a body, with the comma."""
        return len(self._head) + len(self.data) + len(self._tail) + 1

    @property
    def address(self) -> str:
        """Topic and key, for a log line. The data stays out of logs."""
        return self.topic if self.key is None else f"{self.topic}/{self.key}"


def encode(data: object) -> bytes:
    """JSON of a Python object; bytes are taken as they are if they are one JSON value."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _checked(bytes(data))
    try:
        return _encode(data).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"data has half of a surrogate pair, which is no character: {error}") from None
    except RecursionError:
        raise ValueError("data is nested too deeply to be encoded") from None


def _checked(data: bytes) -> bytes:
    """Refuses bytes that are anything but one JSON value: in a batch they would run into their neighbours."""
    try:
        _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"data given as bytes is not UTF-8: {error}") from None
    except RecursionError:
        raise ValueError("data is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"data given as bytes is not one JSON value: {error}") from None
    return data


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unread(_digits: str) -> None:
    """Numbers are not converted: they go on as they are, and a long one would cost what nobody asked for."""


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_unread, parse_float=_unread)


def check_topic(topic: str) -> None:
    """Refuses what can be the name of no topic."""
    _check_is_text("topic", topic)
    if not _TOPIC.fullmatch(topic):
        raise ValueError(f"topic {_shown(topic)} is not valid: a topic is 1 to 64 bytes of a-z, 0-9 and _")


def check_key(key: str) -> None:
    """Refuses what can be no key."""
    _check_is_text("key", key)
    if not 1 <= _length(key) <= MAX_KEY_BYTES or "" in key.split("/") or _CONTROL.search(key):
        raise ValueError(
            f"key {_shown(key)} is not valid: a key is 1 to {MAX_KEY_BYTES} bytes, segments joined by '/', without "
            "empty segments and control characters"
        )


def check_type(type: str) -> None:
    """Refuses what can be no type."""
    _check_is_text("type", type)
    if not 1 <= _length(type) <= MAX_TYPE_BYTES or _CONTROL.search(type):
        raise ValueError(
            f"type {_shown(type)} is not valid: a type is 1 to {MAX_TYPE_BYTES} bytes without control characters"
        )


def rfc3339(moment: datetime) -> str:
    """UTC with `Z`; a moment without a time zone is refused, because nobody can tell which one was meant."""
    if not isinstance(moment, datetime):
        raise TypeError(f"expires_at {reprlib.repr(moment)} is not valid: expected a datetime with a time zone")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValueError(f"expires_at {moment.isoformat()} has no time zone: give it one, such as timezone.utc")
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _check_is_text(name: str, value: object) -> None:
    """Types are hints; an event's number for a key is easily given all the same."""
    if not isinstance(value, str):
        raise TypeError(f"{name} {reprlib.repr(value)} is not valid: expected a str, not {type(value).__name__}")


def _length(text: str) -> int:
    """UTF-8 bytes; half of a surrogate pair counts as too many, because it cannot be sent."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_KEY_BYTES + 1


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")

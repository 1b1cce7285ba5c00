"""A message, which is checked and encoded once: when it is published.

Invariant: errors that can be detected without the server raise a ValueError or TypeError in the call of `publish`.
Errors that only the server can detect (topics, limits) are reported to `on_undelivered`.
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
# The same characters as Rust's char::is_control (general category Cc), because the server uses that function.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Message:
    """A message to publish."""

    topic: str
    data: bytes = field(repr=False)
    """The data as JSON, which subscribers get byte for byte."""
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
        """Checks and encodes a message. Bytes must already be JSON; any other data is encoded here."""
        check_topic(topic)
        if key is not None:
            check_key(key)
        if type is not None:
            check_type(type)
        encoded = encode(data)
        if key is None and encoded.strip() == b"null":
            raise ValueError("invalid data null without a key: null deletes a key, so expected a key or other data")
        if key is None and expires_at is not None:
            raise ValueError("invalid expires_at without a key: only the value of a key can expire")
        named = {name: text for name, text in (("key", key), ("type", type)) if text is not None}
        head = _encode({"topic": topic, **named})[:-1] + ',"data":'
        tail = "}" if expires_at is None else f',"expires_at":"{rfc3339(expires_at)}"}}'
        return Message(topic, encoded, key, type, expires_at, head.encode(), tail.encode())

    @property
    def encoded(self) -> bytes:
        """The JSON object for the body of a request."""
        return self._head + self.data + self._tail

    @property
    def size(self) -> int:
        """The length of the message in a request's body, with the comma, in bytes."""
        return len(self._head) + len(self.data) + len(self._tail) + 1

    @property
    def address(self) -> str:
        """Topic and key, for logs. Logs never contain the data."""
        return self.topic if self.key is None else f"{self.topic}/{self.key}"


def encode(data: object) -> bytes:
    """Encodes an object as JSON. Bytes are used unchanged if they are one JSON value."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _checked(bytes(data))
    try:
        return _encode(data).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"invalid data: half of a surrogate pair is not a character: {error}") from None
    except RecursionError:
        raise ValueError("invalid data: nested too deeply to be encoded") from None


def _checked(data: bytes) -> bytes:
    """Refuses bytes that are not exactly one JSON value: they would make the other messages of the batch unreadable."""
    try:
        _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid data bytes: expected UTF-8: {error}") from None
    except RecursionError:
        raise ValueError("invalid data: nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"invalid data bytes: expected one JSON value: {error}") from None
    return data


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unread(_digits: str) -> None:
    """Replaces the conversion of numbers: the values are not needed, and converting a long number would take much
    time."""


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_unread, parse_float=_unread)


def check_topic(topic: str) -> None:
    """Refuses an invalid topic."""
    _check_is_text("topic", topic)
    if not _TOPIC.fullmatch(topic):
        raise ValueError(f"invalid topic {_shown(topic)}: expected 1 to 64 bytes of a-z, 0-9 and _")


def check_key(key: str) -> None:
    """Refuses an invalid key."""
    _check_is_text("key", key)
    if not 1 <= _length(key) <= MAX_KEY_BYTES or "" in key.split("/") or _CONTROL.search(key):
        raise ValueError(
            f"invalid key {_shown(key)}: expected 1 to {MAX_KEY_BYTES} bytes, segments joined by '/', without empty "
            "segments and control characters"
        )


def check_type(type: str) -> None:
    """Refuses an invalid type."""
    _check_is_text("type", type)
    if not 1 <= _length(type) <= MAX_TYPE_BYTES or _CONTROL.search(type):
        raise ValueError(
            f"invalid type {_shown(type)}: expected 1 to {MAX_TYPE_BYTES} bytes without control characters"
        )


def rfc3339(moment: datetime) -> str:
    """Formats a time in UTC with `Z`. A time without a time zone is refused, because it is ambiguous."""
    if not isinstance(moment, datetime):
        raise TypeError(f"invalid expires_at {reprlib.repr(moment)}: expected a datetime with a time zone")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValueError(f"invalid expires_at {moment.isoformat()}: expected a time zone, such as timezone.utc")
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _check_is_text(name: str, value: object) -> None:
    """Checks the type at run time, because a caller without type checks may pass a number as the key."""
    if not isinstance(value, str):
        raise TypeError(f"invalid {name} {reprlib.repr(value)}: expected a str, not {type(value).__name__}")


def _length(text: str) -> int:
    """The length in UTF-8, in bytes. A text with half of a surrogate pair counts as too long, because it cannot be
    encoded."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_KEY_BYTES + 1


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")

"""The verdict on each answer, and checks of URL, token and Retry-After."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.answer import Again, Answered, Divide, Fatal, Lost, NotSent, OneRefused, Taken, judge
from oddswire.server import base_url, checked_token, described, retry_after


def answered(status: int, code: str | None = None, detail: str = "", index: int | None = None) -> Answered:
    error = {"code": code, "detail": detail, "index": index}
    return Answered(status, b"<html>" if code is None else json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("answer", "verdict", "may_be_taken"),
    [
        (answered(429, "too_many_publishes"), Again, False),
        (answered(503, "engine_unavailable", "no message was accepted: the disk is full; try again"), Again, False),
        (answered(503, "outcome_unknown", "it is unknown whether the messages were accepted: …"), Again, True),
        (answered(503), Again, True),
        (answered(500), Again, True),
        (answered(502), Again, True),
        (answered(504), Again, True),
        (answered(408, "body_timeout"), Again, False),
        (answered(425), Again, False),
        (answered(404), Again, False),
        (answered(404, "not_found"), Fatal, None),
        (answered(400, "unknown_topic", index=3), OneRefused, None),
        (answered(403, "forbidden", index=0), OneRefused, None),
        (answered(413, "message_too_large", index=1), OneRefused, None),
        (answered(413, "body_too_large"), Divide, None),
        (answered(413), Divide, None),
        (answered(400), Divide, None),
        (answered(409, "idempotency_key_reused"), Divide, None),
        (answered(422), Divide, None),
        (answered(401, "unauthorized"), Fatal, None),
        (answered(403, "publishing_disabled"), Fatal, None),
        (answered(403), Fatal, None),
        (answered(405), Fatal, None),
        (answered(407), Fatal, None),
        (answered(415), Fatal, None),
        (answered(301), Fatal, None),
        (answered(204), Fatal, None),
        (answered(200), Fatal, None),
        (Answered(200, b'{"accepted":"x"}'), Fatal, None),
        (Answered(200, b"[" * 100_000), Fatal, None),
        (Answered(200, b'{"accepted":2,"unchanged":1,"position":"1-2"}'), Taken, None),
        (NotSent("refused"), Again, False),
        (Lost("cut"), Again, True),
    ],
)
def test_each_answer_has_its_verdict(answer: Answered, verdict: type, may_be_taken: bool | None) -> None:
    judged = judge(answer)
    assert type(judged) is verdict
    assert getattr(judged, "may_be_taken", None) == may_be_taken


@given(st.integers(100, 599), st.binary(max_size=50) | st.from_regex(rb'\{"error":.*\}', fullmatch=True))
def test_verdict_of_any_answer_is_short(status: int, body: bytes) -> None:
    judged = judge(Answered(status, body))
    assert isinstance(judged, Taken) or len(str(judged.problem)) < 800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("3", 3.0), (" 3 ", 3.0), ("0", 0.0), ("-1", None), ("soon", None), ("1e9", None), ("9" * 400, None)]
    + [("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("Fri, 99 Dec 1999", None)],
)
def test_retry_after_is_number_or_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_date_becomes_seconds_until_then() -> None:
    seconds = retry_after("Thu, 31 Dec 2099 23:59:59 GMT")
    assert seconds is not None
    assert seconds > 3600


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://hub", "http://", "http://hub?a=1", "http://hub#a", "http://[", "/api"]
    + ["http://a b", "http://hub:99999", "http://hub:0", "http://hub:x", "http://hub\x00"],
)
def test_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="invalid url "):
        base_url(url)


def test_url_keeps_its_path_and_loses_its_last_slash() -> None:
    assert base_url("https://odds.example.com/hub/") == "https://odds.example.com/hub"
    assert base_url("http://bücher.example") == "http://xn--bcher-kva.example"
    assert base_url("http://[::1]:8000") == "http://[::1]:8000"


def test_password_in_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="user or password") as raised:
        base_url("http://name:s3cret@hub")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é", " a"])
def test_token_unfit_for_header_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="invalid token: expected") as raised:
        checked_token(token)
    assert token.strip() == "" or token not in str(raised.value)


def test_error_without_text_is_described_by_its_name() -> None:
    assert described(httpx.ReadError("")) == "ReadError"

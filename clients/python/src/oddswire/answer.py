"""The outcome of one attempt to send a batch, and the verdict: what the publisher does next. Pure: no socket, no clock.

Invariant: a verdict says "not taken" only if that is certain. Otherwise the server may have taken the batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from oddswire.errors import Problem

MAX_DETAIL = 300


@dataclass(frozen=True)
class Answered:
    """The request got an answer."""

    status: int
    body: bytes
    retry_after: float | None = None
    """The pause that the answer asks for, in seconds; None if it asks for none."""


@dataclass(frozen=True)
class NotSent:
    """The client could not connect, so the server took nothing."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """The request was sent, at least in part, and no answer came."""

    reason: str


Outcome = Answered | NotSent | Lost


@dataclass(frozen=True)
class Taken:
    """The server took the batch, now or in an earlier attempt."""

    accepted: int
    unchanged: int
    position: str


@dataclass(frozen=True)
class Again:
    """Send the same request again."""

    problem: Problem
    may_be_taken: bool
    after: float = 0.0


@dataclass(frozen=True)
class OneRefused:
    """The server took nothing because of this one message."""

    index: int
    problem: Problem


@dataclass(frozen=True)
class Divide:
    """The server took nothing: the batch is too large, or the answer does not name the invalid message. Send the batch
    in halves."""

    problem: Problem


@dataclass(frozen=True)
class Fatal:
    """The server took nothing, and would refuse any retry: the token or the URL is wrong."""

    problem: Problem


Verdict = Taken | Again | OneRefused | Divide | Fatal

_AGAIN = (408, 425, 429)
_WRONG_FOR_ALL = (401, 403, 404, 405, 407, 415)


def judge(outcome: Outcome) -> Verdict:
    """Returns the verdict on an outcome."""
    if isinstance(outcome, Answered):
        return _taken(outcome) if outcome.status == 200 else _refused(outcome, problem_of(outcome))
    return Again(problem_of(outcome), may_be_taken=isinstance(outcome, Lost))


def problem_of(outcome: Outcome) -> Problem:
    """Describes a failure, in the server's words if it answered."""
    if isinstance(outcome, Answered):
        error = _error(outcome)
        otherwise = f"this answer is not from oddswire: {_shown(outcome.body)}"
        return Problem(_text(error, "code", "http_error"), _text(error, "detail", otherwise), outcome.status)
    return Problem("not_connected" if isinstance(outcome, NotSent) else "answer_lost", outcome.reason)


def _refused(answer: Answered, problem: Problem) -> Verdict:
    status, error = answer.status, _error(answer)
    index = error.get("index")
    if status >= 500 or status in _AGAIN:
        return Again(problem, _may_be_taken(status, problem), answer.retry_after or 0.0)
    if isinstance(index, int) and not isinstance(index, bool):
        return OneRefused(index, problem)
    if status == 404 and not error:
        # A proxy that cannot reach the server for a moment may answer 404, too. Only oddswire's own 404 is final.
        return Again(problem, may_be_taken=False)
    return Fatal(problem) if status < 400 or status in _WRONG_FOR_ALL else Divide(problem)


def _may_be_taken(status: int, problem: Problem) -> bool:
    """Whether the server may have taken a request that will be retried. It may have, unless the answer rules that
    out."""
    return problem.code != "engine_unavailable" and status not in _AGAIN


def _taken(answer: Answered) -> Verdict:
    try:
        body = json.loads(answer.body)
        return Taken(int(body["accepted"]), int(body["unchanged"]), str(body["position"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        detail = f"this answer is not from oddswire: {_shown(answer.body)}"
        return Fatal(Problem("not_oddswire", detail, answer.status))


def _error(answer: Answered) -> dict[str, Any]:
    """The `error` of the server's answer; empty if another program answered."""
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return error if isinstance(error, dict) and isinstance(error.get("code"), str) else {}


def _text(error: dict[str, Any], name: str, otherwise: str) -> str:
    value = error.get(name)
    return value[:MAX_DETAIL] if isinstance(value, str) else otherwise


def _shown(body: bytes) -> str:
    return repr(body[:80].decode(errors="replace")) if body else "an empty body"

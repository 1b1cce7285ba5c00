"""What one try of a batch came to, and what follows from it. Pure: no socket, no clock.

Invariant: a verdict says that something was not taken only where that is certain. All else may have been taken.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from oddswire.errors import Problem

MAX_DETAIL = 300


@dataclass(frozen=True)
class Answered:
    """There was an answer."""

    status: int
    body: bytes
    retry_after: float | None = None
    """Seconds, where the answer asks for a pause."""


@dataclass(frozen=True)
class NotSent:
    """There was no connection, so nothing can have been taken."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """The request went out, at least in part, and no answer came."""

    reason: str


Outcome = Answered | NotSent | Lost


@dataclass(frozen=True)
class Taken:
    """The batch is taken, now or by an earlier try."""

    accepted: int
    unchanged: int
    position: str


@dataclass(frozen=True)
class Again:
    """The same request is to be tried again."""

    problem: Problem
    may_be_taken: bool
    after: float = 0.0


@dataclass(frozen=True)
class OneRefused:
    """Nothing was taken because of this one message."""

    index: int
    problem: Problem


@dataclass(frozen=True)
class Divide:
    """Nothing was taken: too much at once, or refused without saying for which message. Halves tell."""

    problem: Problem


@dataclass(frozen=True)
class Fatal:
    """Nothing was taken, and nothing will be: the token or the URL is wrong."""

    problem: Problem


Verdict = Taken | Again | OneRefused | Divide | Fatal

_AGAIN = (408, 425, 429)
_WRONG_FOR_ALL = (401, 403, 404, 405, 407, 415)


def judge(outcome: Outcome) -> Verdict:
    """Says what follows from the outcome of a try."""
    if isinstance(outcome, Answered):
        return _taken(outcome) if outcome.status == 200 else _refused(outcome, problem_of(outcome))
    return Again(problem_of(outcome), may_be_taken=isinstance(outcome, Lost))


def problem_of(outcome: Outcome) -> Problem:
    """What stands in the way, in the server's words where it has said something."""
    if isinstance(outcome, Answered):
        error = _error(outcome)
        otherwise = f"an answer that is not oddswire's: {_shown(outcome.body)}"
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
        # A proxy that has lost sight of the server for a moment says so too; only the server's own word is final.
        return Again(problem, may_be_taken=False)
    return Fatal(problem) if status < 400 or status in _WRONG_FOR_ALL else Divide(problem)


def _may_be_taken(status: int, problem: Problem) -> bool:
    """Whether a request that is to be tried again may have been taken. Whatever does not say that it was not may."""
    return problem.code != "engine_unavailable" and status not in _AGAIN


def _taken(answer: Answered) -> Verdict:
    try:
        body = json.loads(answer.body)
        return Taken(int(body["accepted"]), int(body["unchanged"]), str(body["position"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        detail = f"what answered is not oddswire: {_shown(answer.body)}"
        return Fatal(Problem("not_oddswire", detail, answer.status))


def _error(answer: Answered) -> dict[str, Any]:
    """The `error` of the server's answers; empty where something else has answered."""
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

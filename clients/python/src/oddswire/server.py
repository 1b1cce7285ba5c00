"""The server, seen from here: the one place that does HTTP.

Invariant: a try ends by its deadline, whatever the peer does, and an outcome says NotSent only where that is certain.
The token is in no repr and no log line.
"""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx

from oddswire.answer import Answered, Lost, NotSent, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# An answer of the server has some hundred bytes; what is longer comes from something else, and its beginning will do.
MAX_ANSWER_BYTES = 64 * 1024


class Server:
    """Where a publisher's requests go."""

    def __init__(self, url: str, token: str, timeout: float, http: Callable[[], httpx.AsyncClient] | None) -> None:
        self.url = base_url(url)
        # Compressed, a short answer could become a long one.
        self._headers = {"Authorization": f"Bearer {checked_token(token)}", "Accept-Encoding": "identity"}
        self._timeout = timeout
        self._make_client = http or (lambda: httpx.AsyncClient(timeout=timeouts(timeout)))
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> None:
        self._client = await self._make_client().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def post(self, path: str, body: bytes, idempotency_key: str | None = None) -> Outcome:
        """One try. Its deadline is for the whole of it: httpx has one only for each read and write."""
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        try:
            return await asyncio.wait_for(self._exchange(path, body, headers), self._timeout)
        except asyncio.TimeoutError:
            return Lost(f"no answer within request_timeout ({self._timeout:g} s)")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return NotSent(described(error))
        except (httpx.HTTPError, httpx.StreamError) as error:
            return Lost(described(error))

    async def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        if self._client is None:
            return NotSent("the publisher is not open")
        request = self._client.build_request(
            "POST", self.url + path, content=body, headers={**self._headers, **headers}
        )
        response = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            answer = b""
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) >= MAX_ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        return Answered(response.status_code, answer, retry_after(response.headers.get("Retry-After")))


def timeouts(whole: float) -> httpx.Timeout:
    """Connecting has half of the time. A host that swallows packets is then known as one that got nothing; by the
    deadline for the whole nobody could tell."""
    return httpx.Timeout(whole, connect=whole / 2, pool=whole / 2)


def base_url(url: str) -> str:
    """The URL that paths are appended to; refused where it could not work, or would show a password."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url {url!r} is not valid: {error}") from None
    if parsed.userinfo:
        raise ValueError("url has a user or password in it: the token is an argument of its own")
    has_host = re.fullmatch(rb"[0-9A-Za-z._:-]+", parsed.raw_host) and (parsed.port is None or 0 < parsed.port < 2**16)
    if parsed.scheme not in ("http", "https") or not has_host or parsed.query or parsed.fragment:
        raise ValueError(f"url {url!r} is not valid: expected one such as https://odds.example.com or http://hub:8000")
    return str(parsed).rstrip("/")


def checked_token(token: str) -> str:
    """A token that can stand in a header. An error does not show it."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError("token is not valid: expected one or more visible ASCII characters, without spaces")
    return token


def retry_after(value: str | None) -> float | None:
    """Seconds from now (RFC 9110, section 10.2.3: a number, or a date); None where that cannot be read."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def described(error: Exception) -> str:
    """The error's name and words; some have no words."""
    return f"{type(error).__name__}: {error}".rstrip(": ")

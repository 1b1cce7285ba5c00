"""The HTTP client of a publisher. Only this file does HTTP.

Invariant: an attempt ends by its deadline, whatever the peer does. The outcome is NotSent only if the server certainly
got nothing. No repr and no log line contains the token.
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

# Maximum length of an answer that is read. The server's answers have a few hundred bytes. A longer answer comes from
# another program, and its beginning suffices.
MAX_ANSWER_BYTES = 64 * 1024


class Server:
    """The server to which a publisher sends its requests."""

    def __init__(self, url: str, token: str, timeout: float, http: Callable[[], httpx.AsyncClient] | None) -> None:
        self.url = base_url(url)
        # Refuse compression, because a short compressed answer could expand to a very long one.
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
        """Sends one request once. The deadline covers the whole attempt: the timeouts of httpx cover only each read and
        write."""
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
    """Gives half of the time to connecting. So a host that drops packets causes a connect timeout, which shows that
    nothing was sent. The deadline of the whole attempt could not show that."""
    return httpx.Timeout(whole, connect=whole / 2, pool=whole / 2)


def base_url(url: str) -> str:
    """Checks the URL, and returns it without the last slash. Refuses a URL that cannot work or contains a password."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"invalid url {url!r}: {error}") from None
    if parsed.userinfo:
        raise ValueError("invalid url: it contains a user or password; expected the token as a separate argument")
    has_host = re.fullmatch(rb"[0-9A-Za-z._:-]+", parsed.raw_host) and (parsed.port is None or 0 < parsed.port < 2**16)
    if parsed.scheme not in ("http", "https") or not has_host or parsed.query or parsed.fragment:
        raise ValueError(f"invalid url {url!r}: expected a URL such as https://odds.example.com or http://hub:8000")
    return str(parsed).rstrip("/")


def checked_token(token: str) -> str:
    """Checks that a header can carry the token. The error does not show the token."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError("invalid token: expected one or more visible ASCII characters, without spaces")
    return token


def retry_after(value: str | None) -> float | None:
    """Parses a `Retry-After` (RFC 9110, section 10.2.3: a number or a date) into seconds from now. Returns None if the
    value is unreadable."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def described(error: Exception) -> str:
    """The name and the text of an error. Some errors have no text."""
    return f"{type(error).__name__}: {error}".rstrip(": ")

"""A reverse proxy between publisher and server that does what proxies and networks do on a bad day."""

from __future__ import annotations

import http.client
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hub import WITHIN


@dataclass(frozen=True)
class Request:
    """What came from the publisher."""

    key: str | None
    body: bytes


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own; the server sees nothing of the request."""

    status: int
    body: bytes = b"<html>a proxy's own words</html>"
    headers: tuple[tuple[str, str], ...] = ()


# The server sees the request and answers, and the connection ends before the answer comes through.
LOSE_ANSWER = "lose the answer"
# The connection ends before the server sees anything.
LOSE_REQUEST = "lose the request"
# Nothing happens until `release`; then the connection ends.
STALL = "stall"

# An answer begins, and goes on byte by byte for as long as anybody reads, until `release`.
DRIBBLE = "dribble"

Fault = str | Answer


class Link:
    """The proxy. `faults` are what it does with the next requests; after them it passes everything on."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._changed = threading.Condition()
        self.faults: deque[Fault] = deque()
        self.requests: list[Request] = []
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        handle = self._handle

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                handle(self)

            def log_message(self, format: str, *args: object) -> None:
                """Stays out of the test's output."""

        return Handler

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._changed:
            self.requests.append(Request(handler.headers["Idempotency-Key"], body))
            fault = self.faults.popleft() if self.faults else None
            self._changed.notify_all()
        handler.close_connection = fault is not None
        if fault == STALL:
            self._released.wait()
        elif fault == DRIBBLE:
            self._dribble(handler)
        elif isinstance(fault, Answer):
            self._answer(handler, fault.status, fault.headers, fault.body)
        elif fault != LOSE_REQUEST:
            status, headers, answer = self._pass_on(handler, body)
            if fault != LOSE_ANSWER:
                self._answer(handler, status, headers, answer)

    def _dribble(self, handler: BaseHTTPRequestHandler) -> None:
        with suppress(ConnectionError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not self._released.wait(0.01):
                handler.wfile.write(b" ")

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=WITHIN)
        try:
            connection.request("POST", handler.path, body, dict(handler.headers.items()))
            answer = connection.getresponse()
            headers = tuple((name, value) for name, value in answer.getheaders() if name.lower() == "retry-after")
            return answer.status, headers, answer.read()
        except OSError:
            return 502, (), b"<html>502</html>"
        finally:
            connection.close()

    @staticmethod
    def _answer(
        handler: BaseHTTPRequestHandler, status: int, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> None:
        handler.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            handler.send_header(name, value)
        # Whoever has seen enough of a long answer goes away.
        with suppress(ConnectionError):
            handler.end_headers()
            handler.wfile.write(body)

    def until(self, holds: Callable[[list[Request]], bool]) -> None:
        """Waits until it holds of the requests that came."""
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self.requests), WITHIN), self.requests

    def release(self) -> None:
        """Ends the connections that are stalled, and stalls none any more."""
        self._released.set()

    def close(self) -> None:
        """Ends it."""
        self.release()
        self._server.shutdown()
        self._server.server_close()

"""A reverse proxy between publisher and server that simulates failures of proxies and networks."""

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
    """A request of the publisher."""

    key: str | None
    body: bytes


@dataclass(frozen=True)
class Answer:
    """The proxy itself answers the request, and the server never sees it."""

    status: int
    body: bytes = b"<html>a proxy's own words</html>"
    headers: tuple[tuple[str, str], ...] = ()


# The server answers the request, but the connection ends before the publisher gets the answer.
LOSE_ANSWER = "lose the answer"
# The connection ends before the server sees the request.
LOSE_REQUEST = "lose the request"
# The proxy does nothing until `release`, and then ends the connection.
STALL = "stall"

# An answer comes byte by byte, until the publisher closes the connection or `release` is called.
DRIBBLE = "dribble"

Fault = str | Answer


class Link:
    """The proxy. `faults` apply to the next requests in order. Further requests are passed on."""

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
                """Keeps log lines out of the test's output."""

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
        # The publisher closes the connection in the middle of a long answer.
        with suppress(ConnectionError):
            handler.end_headers()
            handler.wfile.write(body)

    def until(self, holds: Callable[[list[Request]], bool]) -> None:
        """Waits until the condition is true for the requests so far."""
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self.requests), WITHIN), self.requests

    def release(self) -> None:
        """Ends all stalled connections, and stalls no further ones."""
        self._released.set()

    def close(self) -> None:
        """Stops the proxy."""
        self.release()
        self._server.shutdown()
        self._server.server_close()

"""An ASGI application under a real uvicorn, on its own port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from hub import WITHIN


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serves the application. At the end, waits until its lifespan has ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(2 * WITHIN)
        listener.close()
    assert not thread.is_alive()

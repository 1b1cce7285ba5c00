"""The real server as a process on its own port, and a subscriber that reads its messages."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

TOKEN = "test-token"
# The maximum duration of each wait, in seconds. A wait takes milliseconds, unless the machine is busy.
WITHIN = 20.0

_ROOT = Path(__file__).parents[3]
BINARY = Path(os.environ.get("ODDSWIRE_BIN", _ROOT / "target" / "debug" / "oddswire"))


class Hub:
    """A server. Its port stays reserved, so that it can restart on the same port."""

    def __init__(self, **settings: str | None) -> None:
        self._held = socket.socket()
        # This socket reserves the port but never listens. SO_REUSEADDR lets the server use the same port.
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._held.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self._settings = settings
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts the process, and waits until it listens."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ODDSWIRE_")}
        settings = {
            "listen": self.address,
            "admin_listen": "127.0.0.1:0",
            "log_format": "json",
            "publish_token": TOKEN,
            "history_messages": "100000",
            "history_bytes": "64MiB",
            **self._settings,
        }
        variables = {f"ODDSWIRE_{name.upper()}": value for name, value in settings.items() if value is not None}
        # Python ignores SIGXFSZ, and with restore_signals=False the server inherits that. So when the size of a file is
        # limited, the server gets an error, as with a full disk.
        self.process = subprocess.Popen(
            [str(BINARY)], env={**kept, **variables}, stderr=subprocess.PIPE, text=True, restore_signals=False
        )
        log: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read_log, args=(self.process, log), daemon=True).start()
        lines = [log.get(timeout=WITHIN)]
        while '"event":"server.listening"' not in lines[-1]:
            assert lines[-1], f"the server ended instead of starting: {lines}"
            lines.append(log.get(timeout=WITHIN))

    @staticmethod
    def _read_log(process: subprocess.Popen[str], log: queue.Queue[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                log.put(line)
        log.put("")

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(WITHIN)
            self.process = None

    def close(self) -> None:
        """Ends the process and frees the port."""
        self.end()
        self._held.close()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        answer = httpx.get(self.url + path, trust_env=False, timeout=WITHIN)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def state(self, topic: str = "odds_updates") -> dict[str, Any]:
        """The latest data of each key."""
        items = self.get(f"/api/topics/{topic}/state")["items"]
        return {item["key"]: item["data"] for item in items if "key" in item}

    def history(self, topic: str = "odds_updates") -> list[dict[str, Any]]:
        """Every message of a topic since the sequence began, as a subscriber gets them."""
        return [json.loads(text) for text in self.texts(topic)]

    def texts(self, topic: str = "odds_updates") -> list[str]:
        """The same messages as text, because tests compare data byte for byte."""
        position = self.get("/api/topics")["topics"][0]["position"]
        url = f"ws://{self.address}/api/ws?topics={topic}&since={position.partition('-')[0]}-0"
        texts = []
        with connect(url, proxy=None, open_timeout=WITHIN, max_size=None) as subscriber:
            while (kind := json.loads(text := subscriber.recv(timeout=WITHIN, decode=True))["type"]) != "caught_up":
                if kind == "catch_up":
                    assert json.loads(text)["data"]["topics"][topic] == {"mode": "replayed", "skipped": 0}
                elif kind != "connection_ack":
                    texts.append(text)
        return texts

    @contextmanager
    def subscriber(self) -> Iterator[Any]:
        """A live subscriber; `recv` returns the next message."""
        with connect(f"ws://{self.address}/api/ws", proxy=None, open_timeout=WITHIN) as subscriber:
            assert json.loads(subscriber.recv(timeout=WITHIN))["type"] == "connection_ack"
            yield subscriber

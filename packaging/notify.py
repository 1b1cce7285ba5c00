"""Starts a server as systemd does, and checks that it gets ready, answers, reloads, and ends.

    python3 packaging/notify.py PROGRAM [ARGUMENT…]
    python3 packaging/notify.py --unit UNIT [NAME=VALUE…]

The second form takes the command, the user and the settings from a unit, creates its state directory, and needs root. It
does not set up the unit's sandbox. The server listens on free ports.
"""

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

# Maximum seconds for each step: a machine that runs CI may be busy.
PATIENCE = 60
FREE_PORTS = {"ODDSWIRE_LISTEN": "127.0.0.1:0", "ODDSWIRE_ADMIN_LISTEN": "127.0.0.1:0"}


class ServiceManager:
    """The socket that a service sends its state to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(PATIENCE)

    def wait_for(self, state: str) -> list[str]:
        """Waits for a notification with this line, and returns all of its lines."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            if state in lines:
                return lines


def variables(lines: list[str]) -> dict[str, str]:
    """The variables of lines `NAME=VALUE`, without comments."""
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name: value for name, value in pairs}


def read_unit(path: Path) -> tuple[list[str], dict[str, str], str]:
    """The command, the environment and the user that a unit names; creates its state directory."""
    lines = path.read_text().replace("%S", "/var/lib").splitlines()
    settings = variables(lines)
    environment = variables([line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")])
    environment |= variables(Path(settings["EnvironmentFile"].removeprefix("-")).read_text().splitlines())
    user = settings["User"]
    state = Path("/var/lib", settings["StateDirectory"])
    state.mkdir(mode=int(settings["StateDirectoryMode"], 8), exist_ok=True)
    shutil.chown(state, user, user)
    return shlex.split(settings["ExecStart"]), environment, user


def check(server: "subprocess.Popen[bytes]", manager: ServiceManager, reloads: bool) -> None:
    ready = manager.wait_for("READY=1")
    address = next(line.removeprefix("STATUS=serving on ") for line in ready if line.startswith("STATUS="))
    with urllib.request.urlopen(f"http://{address}/healthz", timeout=PATIENCE) as answer:
        assert json.load(answer) == {"status": "ok"}
    if reloads:
        server.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
    server.terminate()
    manager.wait_for("STOPPING=1")
    assert server.wait(PATIENCE) == 0, f"exit code {server.returncode}"


def main(arguments: list[str]) -> None:
    user = None
    if arguments[0] == "--unit":
        command, environment, user = read_unit(Path(arguments[1]))
        environment |= variables(arguments[2:])
    else:
        command, environment = arguments, {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        manager = ServiceManager(directory)
        if user:
            shutil.chown(directory, user)
            shutil.chown(manager.path, user)
        environment |= FREE_PORTS | {"NOTIFY_SOCKET": str(manager.path)}
        log = directory / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, env=environment, user=user, group=user, stderr=output, cwd="/")
        try:
            # `demo` does not reload: SIGHUP ends it, because it belongs to a terminal.
            check(server, manager, reloads="demo" not in command)
        except (AssertionError, OSError) as error:
            raise SystemExit(f"{shlex.join(command)}: {error!r}; its log:\n{log.read_text()}") from error
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main(sys.argv[1:])

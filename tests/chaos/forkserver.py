"""Starts producers and consumers within milliseconds: they are forked from a process that has imported all.

The server is a child of the supervisor, and its forks stay in its process group. When the test process ends
in any way, all of them are killed, stopped ones too.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from threading import Lock
from typing import Any

from redis_support.child_processes import shared_children, wait_until

_TESTS = Path(__file__).resolve().parents[1]


class Member:
    """A process that was forked; the same methods as ``redis_support.child_processes.Process`` has."""

    def __init__(self, server: ForkServer, pid: int, log: Path) -> None:
        self._server = server
        self.pid = pid
        self.log = log
        self._status: int | None = None

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal; False when the process has ended already."""
        if self._status is not None:
            return False
        return bool(self._server.ask(do="signal", pid=self.pid, signal=int(number)))

    def poll(self) -> int | None:
        """The exit status (negative: a signal), None while it runs."""
        if self._status is None:
            self._status = self._server.ask(do="poll", pid=self.pid)
        return self._status

    def wait(self, timeout: float = 10.0) -> int:
        """The exit status, once there is one; raises ``TimeoutError``."""
        wait_until(lambda: self.poll() is not None, f"process {self.pid} ends", timeout)
        assert self._status is not None
        return self._status

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def log_text(self) -> str:
        """Its log."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class ForkServer:
    """Talks to one fork server. Safe to use from threads."""

    def __init__(self) -> None:
        children = shared_children()
        directory = children.directory()
        address = directory / "socket"
        self._lock = Lock()
        environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
        process = children.start(
            [sys.executable, "-m", "chaos.forkserver", str(address)],
            directory=directory,
            log=directory / "log",
            environment=environment,
        )
        self._connection = socket.socket(socket.AF_UNIX)

        def connected() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"the fork server ended:\n{process.log_text()}")
            try:
                self._connection.connect(str(address))
            except OSError:
                return False
            return True

        wait_until(connected, "the fork server listens", 30.0)
        self._answers = self._connection.makefile("rb")

    def start(self, role: dict[str, Any], log: Path) -> Member:
        """Starts a process that plays a role."""
        return Member(self, self.ask(do="start", role=role, log=str(log)), log)

    def ask(self, **request: Any) -> Any:
        """One request and its answer."""
        with self._lock:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            line = self._answers.readline()
        if not line:
            raise RuntimeError("the fork server is gone")
        return json.loads(line)


@functools.cache
def shared_forkserver() -> ForkServer:
    """The fork server of this process."""
    return ForkServer()


def _serve(address: str) -> None:
    from bus_core import open_bus
    from chaos import roles
    from chaos.histories import player

    # Opening a bus, which is not started, imports all plugins and makes what is cached.
    open_bus({"bus": {"adapter": "redis", "health": {"probes": ["engine", "event-loop"]}}})
    gc.freeze()
    statuses: dict[int, int] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        connection, _ = listener.accept()
        for line in connection.makefile("rb"):
            request = json.loads(line)
            match request["do"]:
                case "start":
                    pid = os.fork()
                    if pid == 0:
                        listener.close()
                        connection.close()
                        is_player = request["role"]["kind"] == "player"
                        _become(player.play if is_player else roles.play, request)
                    statuses.pop(pid, None)  # of an earlier process with that number
                    answer: Any = pid
                case "signal":
                    answer = _poll(request["pid"], statuses) is None
                    if answer:
                        os.kill(request["pid"], request["signal"])
                case _:
                    answer = _poll(request["pid"], statuses)
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _poll(pid: int, statuses: dict[int, int]) -> int | None:
    if pid not in statuses:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            return None
        statuses[pid] = os.waitstatus_to_exitcode(status)
    return statuses[pid]


def _become(play: Any, request: dict[str, Any]) -> None:
    """In the child: never returns."""
    status = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        play(request["role"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])

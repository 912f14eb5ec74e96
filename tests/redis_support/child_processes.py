"""Processes and directories that never outlive the process that asked for them."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SUPERVISOR = Path(__file__).with_name("supervisor.py")


class Process:
    """A process that the supervisor started; whoever is done with it calls ``kill_group``."""

    def __init__(self, children: ChildProcesses, pid: int, log: Path) -> None:
        self._children = children
        self.pid = pid
        self.log = log

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal; False when the process has ended already."""
        return bool(self._children.ask(do="signal", pid=self.pid, signal=int(number))["sent"])

    def poll(self) -> int | None:
        """The exit status as ``subprocess`` has it (negative: a signal), None while it runs."""
        return self._children.ask(do="poll", pid=self.pid)["status"]

    def wait(self, timeout: float = 10.0) -> int:
        """The exit status, once there is one; raises ``TimeoutError``."""
        wait_until(lambda: self.poll() is not None, f"process {self.pid} ends", timeout)
        status = self.poll()
        assert status is not None
        return status

    def kill_group(self) -> None:
        """Kills the process and all of its group, and forgets it."""
        self._children.ask(do="kill_group", pid=self.pid)

    def log_text(self) -> str:
        """The text of its standard output and error."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class ChildProcesses:
    """Talks to one supervisor. Safe to use from threads; not after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", SUPERVISOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer; raises ``RuntimeError`` when the supervisor refuses or is gone."""
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with self._lock:
            self._supervisor.stdin.write(json.dumps(request).encode() + b"\n")
            self._supervisor.stdin.flush()
            line = self._supervisor.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the supervisor is gone"}
        if "error" in answer:
            raise RuntimeError(f"{request['do']}: {answer['error']}")
        return answer

    def start(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
    ) -> Process:
        """Starts a process whose output goes to the end of a file; ``user`` is an id, and that of a group."""
        answer = self.ask(
            do="start",
            command=[str(part) for part in command],
            directory=str(directory),
            log=str(log),
            environment=dict(os.environ if environment is None else environment),
            user=user,
        )
        return Process(self, answer["pid"], log)

    def directory(self, prefix: str = "promenade-") -> Path:
        """A new, empty directory with a short path, so that Unix sockets fit."""
        path = Path(tempfile.mkdtemp(prefix=prefix))
        self.ask(do="keep", directory=str(path))
        return path

    def remove(self, directory: Path) -> None:
        """Removes a directory before the end."""
        self.ask(do="forget", directory=str(directory))

    def close(self) -> None:
        """Ends every process, removes every directory, and waits until that is done."""
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        self._supervisor.stdin.close()
        self._supervisor.wait()
        self._supervisor.stdout.close()


_shared: tuple[int, ChildProcesses] | None = None
_shared_lock = threading.Lock()


def shared_children() -> ChildProcesses:
    """The child processes of this process; a forked child gets one of its own."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = os.getpid(), ChildProcesses()
            atexit.register(_close_shared, *_shared)
        return _shared[1]


def _close_shared(owner: int, children: ChildProcesses) -> None:
    if os.getpid() == owner:
        children.close()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Returns once the condition holds; raises ``TimeoutError`` that names what was waited for."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)

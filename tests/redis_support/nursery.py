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

REAPER = Path(__file__).with_name("reaper.py")


class Process:
    """A process that the reaper started; whoever is done with it calls ``bury``."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.log = log

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal; False when the process has ended already."""
        return bool(self._nursery.ask(do="signal", pid=self.pid, signal=int(number))["sent"])

    def poll(self) -> int | None:
        """The exit status as ``subprocess`` has it (negative: a signal), None while it runs."""
        return self._nursery.ask(do="poll", pid=self.pid)["status"]

    def wait(self, timeout: float = 10.0) -> int:
        """The exit status, once there is one; raises ``TimeoutError``."""
        wait_until(lambda: self.poll() is not None, f"process {self.pid} ends", timeout)
        status = self.poll()
        assert status is not None
        return status

    def bury(self) -> None:
        """Kills the process and all of its group, and forgets it."""
        self._nursery.ask(do="bury", pid=self.pid)

    def log_text(self) -> str:
        """What it has written to its standard output and error."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Nursery:
    """Talks to one reaper. Safe to use from threads; not after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", REAPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer; raises ``RuntimeError`` when the reaper refuses or is gone."""
        assert self._reaper.stdin is not None
        assert self._reaper.stdout is not None
        with self._lock:
            self._reaper.stdin.write(json.dumps(request).encode() + b"\n")
            self._reaper.stdin.flush()
            line = self._reaper.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the reaper is gone"}
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
    ) -> Process:
        """Starts a process whose output goes to the end of a file."""
        answer = self.ask(
            do="start",
            command=[str(part) for part in command],
            directory=str(directory),
            log=str(log),
            environment=dict(os.environ if environment is None else environment),
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
        assert self._reaper.stdin is not None
        assert self._reaper.stdout is not None
        self._reaper.stdin.close()
        self._reaper.wait()
        self._reaper.stdout.close()


_shared: tuple[int, Nursery] | None = None
_shared_lock = threading.Lock()


def shared_nursery() -> Nursery:
    """The nursery of this process; a forked child gets one of its own."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = os.getpid(), Nursery()
            atexit.register(_close_shared, *_shared)
        return _shared[1]


def _close_shared(owner: int, nursery: Nursery) -> None:
    if os.getpid() == owner:
        nursery.close()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Returns once the condition holds; raises ``TimeoutError`` that names what was waited for."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)

"""The process that starts the processes of the tests, and ends them when the test process is gone.

It runs in a session of its own, so that a Ctrl-C or the end of a test run does not end it first. Its parent
writes one request a line, as JSON, and reads one answer a line. At the end of its input, or when its parent
is gone, it kills the process group of every process that it started. Then it removes every directory that it
was told of. That the supervisor is the parent of those processes is the point: there is no moment in which
one exists that nobody would end. It uses only the standard library.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import Any

PARENT_CHECKS = 0.5


class Supervisor:
    """Holds the processes and directories of one test process."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.directories: list[str] = []

    def serve(self) -> None:
        """Answers until the input ends or the parent is gone."""
        pending = b""
        while os.getppid() == self.parent:
            for process in self.processes.values():
                process.poll()  # a process that ended does not stay a zombie
            if not select.select([0], [], [], PARENT_CHECKS)[0]:
                continue
            received = os.read(0, 65536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                answer = json.dumps(self.answer(json.loads(line))).encode() + b"\n"
                try:
                    os.write(1, answer)
                except BrokenPipeError:
                    return

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what one request asks for."""
        match request["do"]:
            case "start":
                return self.start(request)
            case "keep":
                self.directories.append(request["directory"])
                return {}
            case "forget":
                self.directories.remove(request["directory"])
                shutil.rmtree(request["directory"], ignore_errors=True)
                return {}
            case "signal":
                process = self.processes[request["pid"]]
                sent = process.poll() is None
                if sent:
                    process.send_signal(request["signal"])
                return {"sent": sent}
            case "poll":
                return {"status": self.processes[request["pid"]].poll()}
            case "kill_group":
                self.end(self.processes.pop(request["pid"]))
                return {}
            case unknown:
                return {"error": f"unknown request {unknown!r}"}

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Starts a process in a session of its own."""
        user, group = request.get("user") or (None, None)
        try:
            with open(request["log"], "ab") as log:
                process = subprocess.Popen(
                    request["command"],
                    cwd=request["directory"],
                    env=request["environment"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    user=user,
                    group=group,
                    extra_groups=None if user is None else [],
                )
        except OSError as error:
            return {"error": str(error)}
        self.processes[process.pid] = process
        return {"pid": process.pid}

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kills a process, and what it started that is still in its group."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()

    def close(self) -> None:
        """Leaves nothing behind."""
        for process in self.processes.values():
            self.end(process)
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Serves the parent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    supervisor = Supervisor()
    try:
        supervisor.serve()
    finally:
        supervisor.close()


if __name__ == "__main__":
    sys.exit(main())

"""Programs of a page, served by the servers that the page names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 60.0
"""Seconds in which a server starts, answers or ends."""

get = partial(httpx.get, timeout=WITHIN)
post = partial(httpx.post, timeout=WITHIN)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/.-]+\.(?:py|yaml))\n")


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block of a page."""
    return _BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def write_files(page: str, directory: Path) -> None:
    """Writes the files that a page shows."""
    for _, text in blocks_of(page):
        if named := _FILE.match(text):
            (directory / named[1]).write_text(text, encoding="utf-8")


def cells_of(page: str) -> Iterator[tuple[str, str]]:
    """The programs of a page that are no files, each with the output that the page shows below it."""
    cells: list[list[str]] = []
    for language, text in blocks_of(page):
        if language == "python":
            cells.append([text, ""])
        elif language == "output":
            cells[-1][1] = text
    return ((text, output) for text, output in cells if not _FILE.match(text))


class Served:
    """A server in a process of its own, whose output goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        """Everything that it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def printed(self, pattern: str) -> re.Match[str]:
        """The first match of a pattern in what it prints, which is waited for."""
        until = time.monotonic() + WITHIN
        while True:
            ended = self._process.poll() is not None
            if found := re.search(pattern, self.log):
                return found
            assert not ended, f"it ended with {self._process.poll()}:\n{self.log}"
            assert time.monotonic() < until, f"waited in vain for {pattern!r}:\n{self.log}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the first of its processes."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """The exit status after a SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(WITHIN)


@contextmanager
def served(
    directory: Path,
    *module_and_arguments: str,
    environ: Mapping[str, str] | None = None,
    python: str | Path = sys.executable,
) -> Iterator[Served]:
    """Runs a module of Python in a directory; kills all its processes at the end."""
    log = directory / f"{module_and_arguments[0]}.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMENADE_BUS")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), "-m", *module_and_arguments],
            cwd=directory,
            env={**kept, "PYTHONDONTWRITEBYTECODE": "1", **(environ or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Served(process, log)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

"""A rolling deploy: two processes, one with the old class and one with the new, share a group."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from redis_support.child_processes import Process, shared_children, wait_until
from redis_support.fixtures import SharedServer

SERVICE = Path(__file__).with_name("rolling_service.py")
COUNT = 20


class Deploy:
    """The processes of a service, and the journal that they write."""

    def __init__(self, server: SharedServer, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._journal = directory / "journal"

    def start(self, version: str, first: int) -> Process:
        arguments = [version, self._server.url, self._server.prefix, self._journal, first, COUNT]
        return shared_children().start(
            [sys.executable, SERVICE, *map(str, arguments)],
            directory=self._directory,
            log=self._directory / f"{version}.log",
        )

    def lines(self, word: str) -> list[list[str]]:
        text = self._journal.read_text() if self._journal.exists() else ""
        return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{word} ")]

    def wait_for(self, word: str, *values: str) -> None:
        wait_until(lambda: [*values] in self.lines(word), f"{word} {' '.join(values)}", 60)

    def numbers(self, version: str | None = None) -> set[int]:
        return {int(number) for by, number, *_ in self.lines("handled") if version in (None, by)}


@pytest.mark.long
def test_a_rolling_deploy_loses_nothing(redis_server: SharedServer, tmp_path: Path) -> None:
    """Old code returns what only new code reads, new code upcasts old events, and every event is handled."""
    deploy = Deploy(redis_server, tmp_path)
    running = [deploy.start("old", 0)]
    try:
        deploy.wait_for("published", "old")
        running.append(deploy.start("new", COUNT))
        deploy.wait_for("published", "new")
        running[0].signal(signal.SIGTERM)
        assert running[0].wait(60) == 0, running[0].log_text()
        wait_until(lambda: len(deploy.numbers()) == 3 * COUNT, "every event is handled", 60)
        running[1].signal(signal.SIGTERM)
        assert running[1].wait(60) == 0, running[1].log_text()
    finally:
        for process in running:
            process.kill_group()
    assert deploy.numbers("old") <= {*range(COUNT)}
    assert {*range(COUNT, 3 * COUNT)} <= deploy.numbers("new")
    assert {" ".join(name) for _, _, *name in deploy.lines("handled")} == {"Ada King"}
    assert [letters for _, letters in deploy.lines("letters")] == ["0", "0"]

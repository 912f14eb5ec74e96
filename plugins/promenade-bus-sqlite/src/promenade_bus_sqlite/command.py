"""``promenade-bus sqlite``: lists the groups in a SQLite file and removes groups.

This module needs click, which the command line installs. The adapter itself does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bus_core import AnyAdapter, BusError, Command
from bus_core.adapters import GroupReport

if TYPE_CHECKING:
    from promenade_bus_cli.group_commands import Use

__all__ = ["SQLITE", "sqlite_command"]


def sqlite_command() -> Any:
    """Creates the command."""
    import click

    from promenade_bus_cli.group_commands import add_group_commands

    @click.group("sqlite")
    def sqlite() -> None:
        """List the groups in a SQLite file, and remove groups that nobody needs any more."""

    add_group_commands(sqlite, "the file", _run)
    return sqlite


SQLITE: Final = Command(
    help="List the groups in a SQLite file, and remove groups that nobody needs any more.",
    load=sqlite_command,
)
"""The command ``sqlite``, loaded when it is run."""


def _run(config: str, use: Use) -> Sequence[GroupReport]:
    from promenade_bus_cli.loading import run_on_adapter
    from promenade_bus_sqlite.adapter import SqliteAdapter
    from promenade_bus_sqlite.groups import SqliteGroups

    def choose(adapter: AnyAdapter) -> SqliteAdapter:
        if not isinstance(adapter, SqliteAdapter):
            raise BusError(
                f"{config} selects the adapter {adapter.name!r}: it has no groups in a SQLite file"
            )
        return adapter

    return run_on_adapter(config, choose, lambda adapter: use(SqliteGroups(adapter.running)))

"""``promenade-bus sqlite``: lists the groups in a SQLite file and removes groups.

This module needs click, which the command line installs. The adapter itself does not need it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from bus_core import BusError, Command, UnknownSubscription
from bus_core.runtime import counted

if TYPE_CHECKING:
    from promenade_bus_sqlite.groups import GroupReport, SqliteGroups

__all__ = ["SQLITE", "sqlite_command"]

T = TypeVar("T")


def sqlite_command() -> Any:
    """Creates the command."""
    import click

    config_option = click.option(
        "--config",
        metavar="FILE",
        envvar="PROMENADE_BUS_CONFIG",
        show_envvar=True,
        required=True,
        help="The configuration file.",
    )

    @click.group("sqlite")
    def sqlite() -> None:
        """List the groups in a SQLite file, and remove groups that nobody needs any more."""

    @sqlite.command("groups")
    @config_option
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    def list_groups(config: str, as_json: bool) -> None:
        """List every group with its topic or pattern, its backlog and its running instances."""
        found = _run(config, lambda groups: groups.list())
        if as_json:
            click.echo(json.dumps([attrs.asdict(report) for report in found], indent=2))
            return
        for line in as_lines(found):
            click.echo(line)

    @sqlite.command()
    @click.argument("group")
    @click.option("--topic", metavar="TOPIC", help="Remove it from this topic or pattern only.")
    @click.option("--force", is_flag=True, help="Remove it although it has instances or unsettled events.")
    @config_option
    def forget(group: str, topic: str | None, force: bool, config: str) -> None:
        """Remove GROUP, such as shop.welcome-mail, and its backlog.

        Its dead letters stay. Exit status: 1 when it is refused.
        """
        from promenade_bus_sqlite.groups import GroupInUse

        try:
            done = _run(config, lambda groups: groups.forget(group, topic=topic, force=force))
        except (GroupInUse, UnknownSubscription) as error:
            raise click.ClickException(str(error)) from error
        backlog = sum(report.backlog for report in done)
        lost = f"; {counted(backlog, 'event was', 'events were')} not settled" if backlog else ""
        click.echo(f"removed {group} from {', '.join(report.topic for report in done)}{lost}")

    return sqlite


SQLITE: Final = Command(
    help="List the groups in a SQLite file, and remove groups that nobody needs any more.",
    load=sqlite_command,
)
"""The command ``sqlite``, loaded when it is run."""


def _run(config: str, use: Callable[[SqliteGroups], Coroutine[Any, Any, T]]) -> T:
    from bus_core import open_bus
    from promenade_bus_cli.signals import run_interruptible
    from promenade_bus_sqlite.adapter import SqliteAdapter
    from promenade_bus_sqlite.groups import SqliteGroups

    async def run() -> T:
        adapter = open_bus(config).adapter
        if not isinstance(adapter, SqliteAdapter):
            raise BusError(
                f"{config} selects the adapter {adapter.name!r}: it has no groups in a SQLite file"
            )
        await adapter.start()
        try:
            return await use(SqliteGroups(adapter.running))
        finally:
            await adapter.close()

    return run_interruptible(run())


def as_lines(reports: Sequence[GroupReport]) -> list[str]:
    """Formats a table for people."""
    if not reports:
        return ["there are no groups in the file"]
    rows = [("GROUP", "TOPIC", "BACKLOG", "INSTANCES", "UNSERVED")]
    for each in reports:
        minutes = int(each.unserved // 60)
        since = "" if each.instances else f"{minutes:,} min" if minutes else "under 1 min"
        rows.append((each.group, each.topic, f"{each.backlog:,}", str(each.instances), since))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

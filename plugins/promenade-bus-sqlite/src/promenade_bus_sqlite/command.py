"""``promenade-bus sqlite``: lists the groups in a SQLite file and removes groups.

This module needs click, which the command line installs. The adapter itself does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from bus_core import AnyAdapter, BusError, Command, UnknownSubscription
from bus_core.runtime import counted

if TYPE_CHECKING:
    from promenade_bus_sqlite.groups import GroupReport, SqliteGroups

__all__ = ["SQLITE", "sqlite_command"]

T = TypeVar("T")


def sqlite_command() -> Any:
    """Creates the command."""
    import click

    from promenade_bus_cli.options import json_option
    from promenade_bus_cli.options import required_config_option as config_option
    from promenade_bus_cli.output import print_json, print_table

    @click.group("sqlite")
    def sqlite() -> None:
        """List the groups in a SQLite file, and remove groups that nobody needs any more."""

    @sqlite.command("groups")
    @config_option
    @json_option
    def list_groups(config: str, as_json: bool) -> None:
        """List every group with its topic or pattern, its backlog and its running instances."""
        found = _run(config, lambda groups: groups.list())
        if as_json:
            print_json([attrs.asdict(report) for report in found])
        elif found:
            print_table(COLUMNS, [_row_of(report) for report in found])
        else:
            click.echo("there are no groups in the file")

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


COLUMNS: Final = ("GROUP", "TOPIC", "BACKLOG", "INSTANCES", "UNSERVED")


def _row_of(report: GroupReport) -> Sequence[str]:
    minutes = int(report.unserved // 60)
    since = "" if report.instances else f"{minutes:,} min" if minutes else "under 1 min"
    return report.group, report.topic, f"{report.backlog:,}", str(report.instances), since

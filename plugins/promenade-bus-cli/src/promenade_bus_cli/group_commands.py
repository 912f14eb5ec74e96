"""``groups`` and ``forget`` for the command of an adapter whose storage has groups.

Adapters on databases share them. Import this module only inside of a function that makes the command.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import attrs
import click

from bus_core import UnknownSubscription
from bus_core.adapters import GroupInUse, GroupReport
from promenade_bus_cli.options import json_option, required_config_option
from promenade_bus_cli.output import counted, print_json, print_table

__all__ = ["StoredGroups", "add_group_commands"]

_COLUMNS: Final = ("GROUP", "TOPIC", "BACKLOG", "INSTANCES", "UNSERVED")


class StoredGroups(Protocol):
    """The groups of a started adapter."""

    async def list(self) -> Sequence[GroupReport]:
        """Every group, by its name."""
        ...

    async def forget(
        self, group: str, *, topic: str | None = None, force: bool = False
    ) -> Sequence[GroupReport]:
        """Removes a group, and returns what it was owed.

        Raises ``UnknownSubscription`` and ``GroupInUse``, and removes nothing then.
        """
        ...


Use = Callable[[StoredGroups], Coroutine[Any, Any, Sequence[GroupReport]]]


def add_group_commands(
    parent: click.Group, where: str, run: Callable[[str, Use], Sequence[GroupReport]]
) -> None:
    """Adds both commands to the command of an adapter.

    ``where`` names the storage: ``the file``. ``run`` starts the adapter of a configuration file, and gives
    the groups to a function.
    """

    @parent.command("groups")
    @required_config_option
    @json_option
    def list_groups(config: str, as_json: bool) -> None:
        """List every group with its topic or pattern, its backlog and its running instances.

        An instance that ended without closing counts as running until a running one has noticed.
        """
        found = run(config, lambda groups: groups.list())
        if as_json:
            print_json([attrs.asdict(report) for report in found])
        elif found:
            print_table(_COLUMNS, [_row_of(report) for report in found])
        else:
            click.echo(f"there are no groups in {where}")

    @parent.command()
    @click.argument("group")
    @click.option("--topic", metavar="TOPIC", help="Remove it from this topic or pattern only.")
    @click.option("--force", is_flag=True, help="Remove it although it has instances or unsettled events.")
    @required_config_option
    def forget(group: str, topic: str | None, force: bool, config: str) -> None:
        """Remove GROUP, such as shop.welcome-mail, and its backlog.

        Waits until its instances are known to run or to be dead, for a lease at most.
        Its dead letters stay. Exit status: 1 when it is refused.
        """
        try:
            done = run(config, lambda groups: groups.forget(group, topic=topic, force=force))
        except (GroupInUse, UnknownSubscription) as error:
            raise click.ClickException(str(error)) from error
        backlog = sum(report.backlog for report in done)
        lost = f"; {counted(backlog, 'event was', 'events were')} not settled" if backlog else ""
        click.echo(f"removed {group} from {', '.join(report.topic for report in done)}{lost}")


def _row_of(report: GroupReport) -> Sequence[str]:
    minutes = int(report.unserved // 60)
    since = "" if report.instances else f"{minutes:,} min" if minutes else "under 1 min"
    return report.group, report.topic, f"{report.backlog:,}", str(report.instances), since

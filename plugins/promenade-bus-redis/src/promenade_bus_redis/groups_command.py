"""``promenade-bus groups``: the groups on a Redis server, and how one is forgotten.

click belongs to the command line, which loads this; the adapter itself does without. The adapter is imported
when a command runs: the help needs no server.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from bus_core import BusError, Command, UnknownSubscription

if TYPE_CHECKING:
    from promenade_bus_redis.streams.groups import GroupReport, RedisGroups, WishReport

__all__ = ["GROUPS", "groups_command"]

T = TypeVar("T")


def groups_command() -> Any:
    """Makes the command."""
    import click

    from promenade_bus_cli.options import json_option
    from promenade_bus_cli.output import print_json

    config_option = click.option(
        "--config",
        metavar="FILE",
        envvar="PROMENADE_BUS_CONFIG",
        show_envvar=True,
        required=True,
        help="The configuration file.",
    )

    @click.group("groups")
    def groups() -> None:
        """List what a Redis server keeps events for, and forget what nobody wants any more."""

    @groups.command("list")
    @config_option
    @json_option
    def list_groups(config: str, as_json: bool) -> None:
        """List every group, how much it has left to do, and who serves it.

        A group is listed with each topic or pattern that it is owed, and then each service with how long it
        wants events to be kept.
        """

        async def look(groups: RedisGroups) -> tuple[Sequence[GroupReport], Sequence[WishReport]]:
            return await groups.list(count=True), await groups.wishes()

        found, wishes = _run(config, look)
        if as_json:
            told = {
                "groups": [_as_data(report) for report in found],
                "services": [attrs.asdict(wish) for wish in wishes],
            }
            print_json(told)
            return
        for line in (*as_lines(found), "", *wish_lines(wishes)):
            click.echo(line)

    @groups.command()
    @click.argument("group", required=False)
    @click.option(
        "--topic",
        metavar="TOPIC",
        help="Forget it on this topic or pattern only, as listed; not where another one covers it.",
    )
    @click.option(
        "--service",
        metavar="NAME",
        help="Instead of a group: forget for how long a service that has ended wanted events kept.",
    )
    @click.option(
        "--force", is_flag=True, help="Forget it although it is served, or has something left to do."
    )
    @config_option
    def forget(group: str | None, topic: str | None, service: str | None, force: bool, config: str) -> None:
        """Forget GROUP, such as shop.welcome-mail, on all of its topics.

        What it has not settled is not handled any more, and does not hold back events from being removed.
        Its dead letters stay. Exit status: 1 when it is refused.
        """
        from promenade_bus_redis.streams.groups import GroupInUse

        if (group is None) is (service is None) or (service is not None and (topic is not None or force)):
            raise click.UsageError("name a GROUP, perhaps with --topic and --force, or a --service")
        try:
            if group is None:
                _run(config, lambda all_groups: all_groups.forget_service(str(service)))
                click.echo(f"forgot for how long {service} wanted events to be kept")
                return
            done = _run(config, lambda all_groups: all_groups.forget(group, topic=topic, force=force))
        except (GroupInUse, UnknownSubscription) as error:
            raise click.ClickException(_plain(str(error))) from error
        lost = f"; {done.backlog:,} events were not settled" if done.backlog else ""
        click.echo(f"forgot {group} on {len(done.topics)} topics{lost}")

    return groups


GROUPS: Final = Command(
    help="List what a Redis server keeps events for, and forget what nobody wants any more.",
    load=groups_command,
)
"""The command ``groups``, loaded when it is run."""


def _run(config: str, use: Callable[[RedisGroups], Coroutine[Any, Any, T]]) -> T:
    from bus_core import open_bus
    from promenade_bus_cli.signals import run_interruptible
    from promenade_bus_redis.pubsub.adapter import PubsubAdapter
    from promenade_bus_redis.streams.adapter import StreamsAdapter

    async def run() -> T:
        bus = open_bus(config)
        adapter = bus.adapter
        if not isinstance(adapter, StreamsAdapter):
            how = " with mode: pubsub" if isinstance(adapter, PubsubAdapter) else ""
            raise BusError(
                f"{config} does not keep its events in Redis streams, but runs on {adapter.name!r}{how}: it "
                "has no groups on a server"
            )
        await adapter.start()
        try:
            return await use(adapter.groups)
        finally:
            await adapter.close()

    return run_interruptible(run())


def as_lines(reports: Sequence[GroupReport]) -> list[str]:
    """A table for people."""
    if not reports:
        return ["there is no group on the server"]
    columns = "GROUP TOPIC STATE INSTANCES BACKLOG PENDING SINCE LAG OLDEST DEAD LOST UNSEEN"
    rows = [columns.split()]
    rows += [
        [
            report.name,
            report.wanted_topic or ", ".join(topic.topic for topic in report.topics),
            report.state,
            str(len(report.instances)),
            f"{report.backlog or 0:,}",
            f"{report.pending:,}",
            _age(report.oldest_pending),
            "-" if report.unread is None else f"{report.unread:,}",
            _age(report.oldest_unread),
            f"{report.dead or 0:,}",
            f"{report.lost:,}",
            "-" if report.instances else _age(report.unseen),
        ]
        for report in reports
    ]
    lines = _table(rows)
    if orphans := [
        f"{report.name} on {report.wanted_topic}" for report in reports if report.state == "orphaned"
    ]:
        lines.append(
            f"orphaned: {_plain(', '.join(orphans))}. They keep events from being removed; if nobody needs "
            "them any more: promenade-bus groups forget GROUP --topic TOPIC"
        )
    return lines


def wish_lines(wishes: Sequence[WishReport]) -> list[str]:
    """A table of what services want, for people."""
    rows = [["SERVICE", "MIN_AGE", "UNSUBSCRIBED", "DEAD LETTERS", "FOR"]]
    rows += [
        [
            wish.service,
            _age(wish.min_age),
            _age(wish.unsubscribed_max_age),
            "for ever" if wish.dead_letters_max_age is None else _age(wish.dead_letters_max_age),
            "everything"
            if wish.stored_before is None
            else f"what was stored until it ended, {_age(wish.stored_before)} ago",
        ]
        for wish in wishes
    ]
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def _plain(text: str) -> str:
    """Names that others have put on the server command no terminal."""
    from bus_core.runtime import printable

    return printable(text, None)


def _age(seconds: float | None) -> str:
    from bus_core.config import format_duration

    return "-" if seconds is None else format_duration(float(round(seconds)))


def _as_data(report: GroupReport) -> dict[str, Any]:
    return {
        "group": report.name,
        "subscription": report.subscription,
        "topic": report.wanted_topic,
        "state": report.state,
        "abandoned": report.is_abandoned,
        "instances": list(report.instances),
        "backlog": report.backlog,
        "pending": report.pending,
        "oldest_pending_s": report.oldest_pending,
        "lag": report.unread,
        "oldest_unread_s": report.oldest_unread,
        "dead": report.dead,
        "lost": report.lost,
        "unseen_s": report.unseen,
        "topics": [
            {"topic": each.topic, "pending": each.pending, "unread": each.unread} for each in report.topics
        ],
    }

"""``promenade-bus groups``: lists and forgets the groups on a Redis server.

Only the command line imports this module, so the adapter does not depend on click. A command imports the
adapter when it runs, so the help does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from bus_core import AnyAdapter, BusError, Command, UnknownSubscription

if TYPE_CHECKING:
    from promenade_bus_redis.streams.groups import GroupReport, RedisGroups, WishReport

__all__ = ["GROUPS", "groups_command"]

T = TypeVar("T")


def groups_command() -> Any:
    """Makes the click command."""
    import click

    from promenade_bus_cli.options import json_option
    from promenade_bus_cli.options import required_config_option as config_option
    from promenade_bus_cli.output import print_json

    @click.group("groups")
    def groups() -> None:
        """List the groups and services for which a Redis server keeps events, or forget one."""

    @groups.command("list")
    @config_option
    @json_option
    def list_groups(config: str, as_json: bool) -> None:
        """List every group with its backlog and its instances.

        A group is listed once for each topic or pattern. The retention times of services follow.
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
        help="Forget it only on this topic or pattern, as listed, unless another one matches the topic.",
    )
    @click.option(
        "--service",
        metavar="NAME",
        help="Instead of a group: remove the retention time of a service that has ended.",
    )
    @click.option("--force", is_flag=True, help="Forget it even if it is served or has unsettled events.")
    @config_option
    @json_option
    def forget(
        group: str | None, topic: str | None, service: str | None, force: bool, config: str, as_json: bool
    ) -> None:
        """Forget GROUP, such as shop.welcome-mail, on all of its topics.

        Its unsettled events are no longer handled, and it no longer prevents the removal of events. Its dead
        letters stay. Exit status: 1 when it is refused.
        """
        from bus_core.runtime import counted
        from promenade_bus_cli.failures import REFUSED, CommandFailed
        from promenade_bus_redis.streams.groups import GroupInUse

        if (group is None) is (service is None) or (service is not None and (topic is not None or force)):
            raise click.UsageError("pass a GROUP, optionally with --topic and --force, or --service")
        try:
            if group is None:
                _run(config, lambda all_groups: all_groups.forget_service(str(service)))
                if as_json:
                    print_json({"service": service, "forgotten": True})
                else:
                    click.echo(f"removed the retention time of {service}")
                return
            done = _run(config, lambda all_groups: all_groups.forget(group, topic=topic, force=force))
        except (GroupInUse, UnknownSubscription) as error:
            raise CommandFailed(_plain(str(error)), REFUSED) from error
        if as_json:
            print_json({"group": group, "topics": list(done.topics), "unsettled": done.backlog})
            return
        lost = f"; {counted(done.backlog, 'event was', 'events were')} not settled" if done.backlog else ""
        click.echo(f"forgot {group} on {counted(len(done.topics), 'topic')}{lost}")

    return groups


GROUPS: Final = Command(
    help="List the groups and services for which a Redis server keeps events, or forget one.",
    load=groups_command,
)
"""The command ``groups``, loaded on first use."""


def _run(config: str, use: Callable[[RedisGroups], Coroutine[Any, Any, T]]) -> T:
    from promenade_bus_cli.loading import run_on_adapter
    from promenade_bus_redis.pubsub.adapter import PubsubAdapter
    from promenade_bus_redis.streams.adapter import StreamsAdapter

    def choose(adapter: AnyAdapter) -> StreamsAdapter:
        if not isinstance(adapter, StreamsAdapter):
            how = " with mode: pubsub" if isinstance(adapter, PubsubAdapter) else ""
            raise BusError(
                f"{config} runs on {adapter.name!r}{how}, not on Redis streams: it has no groups on a server"
            )
        return adapter

    return run_on_adapter(config, choose, lambda adapter: use(adapter.groups))


def as_lines(reports: Sequence[GroupReport]) -> list[str]:
    """Returns the groups as a table."""
    if not reports:
        return ["no groups on the server"]
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
            f"orphaned: {_plain(', '.join(orphans))}. They prevent the removal of events; if no longer needed"
            ": promenade-bus groups forget GROUP --topic TOPIC"
        )
    return lines


def wish_lines(wishes: Sequence[WishReport]) -> list[str]:
    """Returns the retention times of services as a table."""
    rows = [["SERVICE", "MIN_AGE", "UNSUBSCRIBED", "DEAD LETTERS", "FOR"]]
    rows += [
        [
            wish.service,
            _age(wish.min_age),
            _age(wish.unsubscribed_max_age),
            "for ever" if wish.dead_letters_max_age is None else _age(wish.dead_letters_max_age),
            "all events"
            if wish.stored_before is None
            else f"events stored before it ended, {_age(wish.stored_before)} ago",
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
    """Replaces control characters in names from the server."""
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

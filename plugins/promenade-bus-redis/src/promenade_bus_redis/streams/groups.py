"""The groups on the server: how far each of them is, who serves it, and how one is forgotten."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from bus_core import BusError, SubscriptionSpec, UnknownSubscription
from bus_core.errors import suggestion
from bus_core.events import nearest_names
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import FORGET, SURVEY
from promenade_bus_redis.streams.backlog import count_backlog
from promenade_bus_redis.streams.census import Member
from promenade_bus_redis.streams.services import Services

__all__ = ["GroupInUse", "GroupReport", "RedisGroups", "TopicReport"]

_AT_ONCE: Final = 200


class GroupInUse(BusError):
    """A group is served by living instances, or has something left to do, and was not forgotten."""


@attrs.frozen(kw_only=True)
class TopicReport:
    """How far a group is on one topic. ``oldest_pending`` is in seconds; None when nothing is pending.

    ``unread`` is None where the server does not tell without being made to count (before 7.0).
    """

    topic: str
    pending: int
    oldest_pending: float | None
    unread: int | None
    instances: tuple[str, ...]


@attrs.frozen(kw_only=True)
class GroupReport:
    """A group on all of its topics.

    ``backlog`` is what it has not settled; None where it was not counted. ``unseen`` is for how many seconds
    no instance has wanted it, None when one does. ``lost`` is what was counted as lost to it so far.
    """

    name: str
    subscription: str
    wanted_topic: str
    topics: tuple[TopicReport, ...] = ()
    backlog: int | None = None
    unseen: float | None = None
    lost: int = 0
    is_orphan: bool = False

    @property
    def pending(self) -> int:
        """Handed out, and not settled."""
        return sum(topic.pending for topic in self.topics)

    @property
    def oldest_pending(self) -> float | None:
        """Seconds since the oldest event that is pending was stored."""
        return max((age for each in self.topics if (age := each.oldest_pending) is not None), default=None)

    @property
    def instances(self) -> tuple[str, ...]:
        """The living instances that serve it."""
        return tuple(sorted({name for topic in self.topics for name in topic.instances}))

    @property
    def state(self) -> Literal["served", "idle", "orphaned"]:
        """``idle``: nobody serves it at the moment, but not for so long that it is an orphan."""
        if self.instances:
            return "served"
        return "orphaned" if self.is_orphan else "idle"


class RedisGroups:
    """Lists and forgets groups. Methods raise ``RedisFailure`` when the server fails."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self, *, count: bool = False) -> Sequence[GroupReport]:
        """Every group that is there, or wanted, by name; ``count`` what it has not settled, exactly."""
        services = self._services
        members, _ = await services.census.read()
        surveyed = await self.survey(await services.registry.refresh())
        names = sorted({*members, *surveyed})
        unseen = await services.census.unseen(0.0)
        losses = await self.losses()
        reports: list[GroupReport] = []
        for name in names:
            member = members.get(name)
            topics = surveyed.get(name, ())
            report = self._report(name, member, topics, unseen.get(name), losses)
            if count:
                report = attrs.evolve(report, backlog=await self._backlog(report))
            reports.append(report)
        return reports

    def _report(
        self,
        name: str,
        member: Member | None,
        topics: Sequence[TopicReport],
        unseen: float | None,
        losses: Mapping[str, int],
    ) -> GroupReport:
        after = self._services.options.retention.orphaned_after
        wanted = member.topic if member is not None else ""
        served = any(topic.instances for topic in topics)
        return GroupReport(
            name=name,
            subscription=member.subscription if member is not None else "",
            wanted_topic=wanted,
            topics=tuple(topics),
            unseen=unseen,
            lost=sum(count for about, count in losses.items() if about.endswith(f" {name}")),
            is_orphan=unseen is not None and unseen >= after and not served,
        )

    async def survey(
        self, topics: Iterable[str], *, instances: bool = True
    ) -> Mapping[str, Sequence[TopicReport]]:
        """How far each group is on each of these topics, and which ``instances`` serve it, if wanted."""
        services = self._services
        names = sorted(topics)
        alive = await self.alive() if instances else frozenset[str]()
        told = "1" if instances else ""
        found: dict[str, builtins.list[TopicReport]] = {}
        for first in range(0, len(names), _AT_ONCE):
            part = names[first : first + _AT_ONCE]
            places = [services.keys.stream(topic) for topic in part]
            replies = await services.pipe.call_many([(key, SURVEY.command([key], [told])) for key in places])
            for topic, reply in zip(part, replies, strict=True):
                if isinstance(reply, RedisFailure):
                    if reply.kind is Kind.WRONG_TYPE:
                        continue  # somebody else's key
                    raise reply
                for group in reply[3]:
                    report = _topic_report(topic, int(reply[2]), group, alive)
                    found.setdefault(group[0].decode(errors="replace"), []).append(report)
        return found

    async def alive(self) -> frozenset[str]:
        """The names of the instances that live."""
        key, pipe = self._services.keys.instances, self._services.pipe
        seconds, _ = await pipe.call("TIME", key=key)
        reply = await pipe.call("ZRANGEBYSCORE", key, f"({int(seconds) * 1000}", "+inf", key=key)
        return frozenset(name.decode(errors="replace") for name in reply)

    async def losses(self) -> Mapping[str, int]:
        """How many events were counted as lost, by topic and group, with a blank between."""
        key = self._services.keys.losses
        reply = await self._services.pipe.call("HGETALL", key, key=key)
        return {
            name.decode(errors="replace"): int(count)
            for name, count in zip(reply[::2], reply[1::2], strict=True)
        }

    async def _backlog(self, report: GroupReport) -> int:
        specs = [
            SubscriptionSpec(name=report.subscription or report.name, group=report.name, topic=each.topic)
            for each in report.topics
        ]
        return sum([await count_backlog(self._services, spec) for spec in specs])

    # --- forgetting ---------------------------------------------------------------------------------------

    async def forget(self, name: str, *, force: bool = False) -> GroupReport:
        """Removes a group from all of its topics, with what waits for it; returns what it was.

        Its dead letters stay. Raises ``UnknownSubscription`` when there is no such group, and ``GroupInUse``
        when an instance serves it, or it has not settled everything; ``force`` does it all the same.
        """
        reports = {report.name: report for report in await self.list()}
        report = reports.get(name)
        if report is None:
            raise UnknownSubscription(
                f"there is no group {name!r} on the server{suggestion(nearest_names(name, [*reports]))}"
            )
        report = attrs.evolve(report, backlog=await self._backlog(report))
        if not force:
            _check_forgettable(report)
        services, keys = self._services, self._services.keys
        await services.census.remove(name)
        commands: builtins.list[Routed] = []
        topics = await services.registry.refresh()
        for topic in sorted(topics):
            places = [
                keys.stream(topic),
                keys.inbox(topic, name),
                keys.parked(topic, name),
                keys.notes(topic, name),
                keys.fence(topic, name),
            ]
            commands.append((places[0], FORGET.command(places, [name, "1" if force else ""])))
        hints = [f"{topic} {name}" for topic in sorted(topics)]
        if hints:
            commands.append((keys.due, ("ZREM", keys.due, *hints)))
        busy = False
        for first in range(0, len(commands), _AT_ONCE):
            for reply in await services.pipe.call_many(commands[first : first + _AT_ONCE]):
                if isinstance(reply, RedisFailure):
                    if reply.kind is not Kind.WRONG_TYPE:
                        raise reply
                elif reply == -1:
                    busy = True
        if busy:
            raise GroupInUse(
                f"the group {name!r} got something to do meanwhile, and is still there where it did; look at "
                "it again: promenade-bus groups list"
            )
        return report


def _topic_report(topic: str, now: int, group: Sequence[Any], alive: frozenset[str]) -> TopicReport:
    _name, pending, lowest, lag, _delivered, consumers = group
    oldest = max(0.0, (now - int(lowest.partition(b"-")[0])) / 1000) if lowest else None
    names = {name.decode(errors="replace") for name in consumers}
    return TopicReport(
        topic=topic,
        pending=pending,
        oldest_pending=oldest,
        unread=None if lag < 0 else lag,
        instances=tuple(sorted(names & alive)),
    )


def _check_forgettable(report: GroupReport) -> None:
    problems: list[str] = []
    if report.instances:
        problems.append(
            f"it is served by {', '.join(report.instances)}, which would make it again, and handle again "
            "what is there; stop them, or remove the subscription from the code, first"
        )
    if report.backlog:
        problems.append(f"it has not settled {report.backlog:,} events, which nobody would handle any more")
    if problems:
        raise GroupInUse(
            f"the group {report.name!r} was not forgotten: {'; '.join(problems)} (--force does it all the "
            "same)"
        )

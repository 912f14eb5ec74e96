"""The groups on the server: how far each of them is, who serves it, and how one is forgotten."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from bus_core import BusError, UnknownSubscription
from bus_core.errors import suggestion
from bus_core.events import nearest_names
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import FORGET, SURVEY, UNREAD
from promenade_bus_redis.streams.backlog import count_groups
from promenade_bus_redis.streams.dead_letters import RedisDeadLetters
from promenade_bus_redis.streams.names import instance_of
from promenade_bus_redis.streams.service_record import (
    RetentionWish,
    ServiceRecord,
    SubscribedTopic,
    matcher_of,
)
from promenade_bus_redis.streams.services import Services

__all__ = ["Forgotten", "GroupInUse", "GroupReport", "RedisGroups", "TopicReport", "WishReport"]

_AT_ONCE: Final = 200


class GroupInUse(BusError):
    """A group is served by living instances, or has something left to do, and was not forgotten."""


@attrs.frozen(kw_only=True)
class TopicReport:
    """How far a group is on one topic. ``oldest_pending`` is in seconds; None when nothing is pending.

    ``unread`` is None where the server does not tell without being made to count (before 7.0).
    ``oldest_unread`` is for how many seconds the first event that was not read has been there; None where
    there is none, or nobody asked. ``read_up_to`` is the id of the last entry that was read.
    """

    topic: str
    pending: int
    oldest_pending: float | None
    unread: int | None
    instances: tuple[str, ...]
    read_up_to: str = "0-0"
    oldest_unread: float | None = None


@attrs.frozen(kw_only=True)
class GroupReport:
    """A group on a topic or pattern that it is owed, or on topics where somebody made it by hand.

    ``wanted_topic`` is empty in the latter case. ``backlog`` is what it has not settled; None where it was
    not counted. ``unseen`` is for how many seconds no instance has said that it serves it. ``lost`` is what
    was counted as lost to it so far, ``dead`` the number of its dead letters, if that was counted.
    ``is_abandoned``: a newer instance of its service runs without it.
    """

    name: str
    subscription: str
    wanted_topic: str
    topics: tuple[TopicReport, ...] = ()
    backlog: int | None = None
    dead: int | None = None
    unseen: float | None = None
    lost: int = 0
    is_orphan: bool = False
    is_abandoned: bool = False
    servers: tuple[str, ...] = ()
    part: SubscribedTopic | None = None

    @property
    def pending(self) -> int:
        """Handed out, and not settled."""
        return sum(topic.pending for topic in self.topics)

    @property
    def oldest_pending(self) -> float | None:
        """Seconds since the oldest event that is pending was stored."""
        return max((age for each in self.topics if (age := each.oldest_pending) is not None), default=None)

    @property
    def unread(self) -> int | None:
        """Not handed out yet; None where the server does not tell it of each topic."""
        counts = [topic.unread for topic in self.topics]
        return None if None in counts else sum(filter(None, counts))

    @property
    def oldest_unread(self) -> float | None:
        """Seconds since the oldest event that was not handed out was stored."""
        return max((age for each in self.topics if (age := each.oldest_unread) is not None), default=None)

    def wants(self, topics: Iterable[str]) -> frozenset[str]:
        """Its topics, and those of others on which it may have something to do: an inbox at least."""
        matches = matcher_of(self.wanted_topic)
        return frozenset(each.topic for each in self.topics) | {each for each in topics if matches(each)}

    @property
    def instances(self) -> tuple[str, ...]:
        """The living instances that serve it."""
        return tuple(sorted({*self.servers, *(name for topic in self.topics for name in topic.instances)}))

    @property
    def state(self) -> Literal["served", "idle", "orphaned"]:
        """``idle``: nobody serves it at the moment, and that is not known to be for good."""
        if self.is_orphan:
            return "orphaned"
        return "served" if self.instances else "idle"


@attrs.frozen(kw_only=True)
class Forgotten:
    """A group was forgotten on these topics, where it had so much left to do."""

    topics: tuple[str, ...]
    backlog: int


@attrs.frozen(kw_only=True)
class WishReport:
    """For how long a service wants events to be kept. Times are seconds; None is for ever.

    ``stored_before`` is None while the service runs, or has a subscription. Later on its wish is for what was
    stored before it ended, so many seconds ago.
    """

    service: str
    min_age: float
    unsubscribed_max_age: float
    dead_letters_max_age: float | None
    stored_before: float | None


class RedisGroups:
    """Lists and forgets groups. Methods raise ``RedisFailure`` when the server fails."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self, *, count: bool = False) -> Sequence[GroupReport]:
        """Every group that is there, or owed something, by name; ``count`` what it has not settled, exactly.

        A subscription that serves several topics or patterns is listed with each of them.
        """
        services = self._services
        record = await services.records.read(await services.alive())
        topics = await services.registry.refresh()
        reports = self._reports(record, topics, await self.survey(topics), await self.losses())
        if not count:
            return reports
        backlogs = await self._backlogs([(report.name, report.wants(topics)) for report in reports])
        ages = await self._oldest_unread({each for report in reports for each in report.topics})
        dead = await RedisDeadLetters(services).by_group()
        return [
            attrs.evolve(
                report,
                backlog=backlog,
                dead=_dead_of(report, dead),
                topics=tuple(attrs.evolve(each, oldest_unread=ages.get(each)) for each in report.topics),
            )
            for report, backlog in zip(reports, backlogs, strict=True)
        ]

    async def _oldest_unread(self, reports: Collection[TopicReport]) -> Mapping[TopicReport, float]:
        """For how many seconds the first event has been there that a group has not read."""
        services = self._services
        by_topic: dict[str, builtins.list[TopicReport]] = {}
        for report in reports:
            if report.unread != 0:
                by_topic.setdefault(report.topic, []).append(report)
        ages: dict[TopicReport, float] = {}
        parts = [*by_topic.items()]
        for first in range(0, len(parts), _AT_ONCE):
            part = parts[first : first + _AT_ONCE]
            commands: builtins.list[Routed] = []
            for topic, waiting in part:
                key = services.keys.stream(topic)
                commands.append((key, UNREAD.command([key], [each.read_up_to for each in waiting])))
            for (_, waiting), reply in zip(part, await services.pipe.call_many(commands), strict=True):
                if isinstance(reply, RedisFailure):
                    raise reply
                now, entries = reply
                for report, entry in zip(waiting, entries, strict=True):
                    if entry:
                        stored = int(entry.partition(b"-")[0])
                        ages[report] = max(0.0, (int(now) - stored) / 1000)
        return ages

    def _reports(
        self,
        record: ServiceRecord,
        topics: Collection[str],
        surveyed: Mapping[str, Sequence[TopicReport]],
        losses: Mapping[str, int],
    ) -> builtins.list[GroupReport]:
        after = self._services.options.retention.orphaned_after
        reports: builtins.list[GroupReport] = []
        for name in sorted({part.group for part in record.parts} | surveyed.keys()):
            left = found = {report.topic: report for report in surveyed.get(name, ())}
            for part in record.of_group(name):
                matches = matcher_of(part.topic)
                there = tuple(report for topic, report in found.items() if matches(topic))
                left = {topic: report for topic, report in left.items() if not matches(topic)}
                is_served = bool(part.instances) or (
                    not part.service and any(report.instances for report in there)
                )
                reports.append(
                    GroupReport(
                        name=name,
                        subscription=part.subscription,
                        wanted_topic=part.topic,
                        topics=tuple(self._only(report, part) for report in there),
                        unseen=part.unseen,
                        lost=_lost(losses, name, matches),
                        is_orphan=part.is_orphan(after) and not is_served,
                        is_abandoned=part.is_abandoned,
                        servers=part.instances,
                        part=part,
                    )
                )
            if left:
                lost = _lost(losses, name, left.__contains__)
                there = tuple(left.values())
                reports.append(
                    GroupReport(name=name, subscription="", wanted_topic="", topics=there, lost=lost)
                )
        return reports

    @staticmethod
    def _only(report: TopicReport, part: SubscribedTopic) -> TopicReport:
        """A topic of a part: an instance of the group may be there because of another part of it."""
        if not part.service:
            return report
        return attrs.evolve(report, instances=tuple(x for x in report.instances if x in part.instances))

    async def wishes(self) -> Sequence[WishReport]:
        """For how long each service wants events to be kept, as far as that binds retention."""
        services = self._services
        record = await services.records.read(await services.alive())
        return [_wish_report(wish, record.now) for wish in record.wishes]

    async def survey(
        self, topics: Iterable[str], *, instances: bool = True
    ) -> Mapping[str, Sequence[TopicReport]]:
        """How far each group is on each of these topics, and which ``instances`` serve it, if wanted."""
        services = self._services
        names = sorted(topics)
        alive = await services.alive() if instances else frozenset[str]()
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

    async def losses(self) -> Mapping[str, int]:
        """How many events were counted as lost, by topic and group, with a blank between."""
        key = self._services.keys.losses
        reply = await self._services.pipe.call("HGETALL", key, key=key)
        return {
            name.decode(errors="replace"): int(count)
            for name, count in zip(reply[::2], reply[1::2], strict=True)
            if count.isdigit()  # what else is there is not the bus's
        }

    async def _backlogs(self, wanted: Sequence[tuple[str, Collection[str]]]) -> Sequence[int]:
        """The unsettled entries of groups, each on its topics."""
        groups: dict[str, dict[str, None]] = {}
        for name, topics in wanted:
            for topic in topics:
                groups.setdefault(topic, {})[name] = None
        counts = await count_groups(self._services, groups)
        return [sum(counts[topic, name] for topic in topics) for name, topics in wanted]

    # --- forgetting ---------------------------------------------------------------------------------------

    async def forget(self, name: str, *, topic: str | None = None, force: bool = False) -> Forgotten:
        """Removes a group from all of its topics, with what waits for it; returns what that was.

        With ``topic``, one of the topics or patterns that it is listed with, only from those that are not of
        another one. Its dead letters stay. With the last group of a service that does not run, nothing is
        kept any longer because the service wanted it.

        Raises ``UnknownSubscription`` when there is no such group, and ``GroupInUse`` when an instance serves
        it, or it has not settled everything; ``force`` does it all the same.
        """
        services = self._services
        reports = await self.list()
        of_group = [report for report in reports if report.name == name]
        forgotten = [report for report in of_group if topic is None or report.wanted_topic == topic]
        if not forgotten:
            raise _no_group(name, topic, reports)
        others = [matcher_of(report.wanted_topic) for report in of_group if report not in forgotten]
        topics = await services.registry.refresh()
        wanted = frozenset[str]().union(*(report.wants(topics) for report in forgotten))
        selected = sorted(
            each for each in wanted if topic is None or not any(other(each) for other in others)
        )
        (backlog,) = await self._backlogs([(name, selected)])
        if not force:
            _check_forgettable(name, forgotten, backlog)
        parts = [report.part for report in forgotten if report.part is not None]
        if await services.records.remove(parts, force=force) < len(parts) and not force:
            raise GroupInUse(
                f"somebody has begun to serve the group {name!r} meanwhile, or has forgotten it; look at it "
                "again: promenade-bus groups list"
            )
        await self._forget_wishes({report.part.service for report in forgotten if report.part is not None})
        await self._remove(name, selected if topic is not None else sorted(topics), force=force)
        locks = [services.keys.active(report.wanted_topic, name) for report in forgotten]
        await services.pipe.call_many([(lock, ("DEL", lock)) for lock in locks])
        return Forgotten(topics=tuple(selected), backlog=backlog)

    async def _forget_wishes(self, services: Collection[str]) -> None:
        """Those of services that have nothing else, and do not run."""
        records = self._services.records
        record = await records.read(await self._services.alive())
        left = {part.service for part in record.parts}
        for wish in record.wishes:
            if wish.upto is not None and wish.service in services and wish.service not in left:
                await records.remove_wishes(record, wish.service)

    async def forget_service(self, service: str) -> None:
        """Forgets for how long a service wanted events to be kept.

        Raises ``UnknownSubscription`` when it wants nothing, and ``GroupInUse`` while it runs.
        """
        services = self._services
        alive = await services.alive() - {services.name}
        record = await services.records.read(alive)
        wishes = {wish.encode(): wish.service for wish in record.wishes}
        if service not in wishes.values():
            known = sorted({*wishes.values()})
            raise UnknownSubscription(
                f"no service {service!r} wants events to be kept{suggestion(nearest_names(service, known))}"
            )
        running = sorted(name for name in alive if wishes.get(record.instances.get(name, "")) == service)
        if running:
            raise GroupInUse(
                f"the wish of the service {service!r} was not forgotten: it runs as {', '.join(running)}, "
                "and would say it again; stop it, or change 'bus.redis.retention' there"
            )
        await services.records.remove_wishes(record, service)

    async def _remove(self, name: str, topics: Sequence[str], *, force: bool) -> None:
        services, keys = self._services, self._services.keys
        commands: builtins.list[Routed] = []
        for topic in topics:
            places = [
                keys.stream(topic),
                keys.inbox(topic, name),
                keys.parked(topic, name),
                keys.notes(topic, name),
                keys.fence(topic, name),
                keys.settled(topic),
            ]
            commands.append((places[0], FORGET.command(places, [name, "1" if force else ""])))
        hints = [f"{topic} {name}" for topic in topics]
        for first in range(0, len(hints), _AT_ONCE):
            commands.append((keys.due, ("ZREM", keys.due, *hints[first : first + _AT_ONCE])))
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


def _no_group(name: str, topic: str | None, reports: Sequence[GroupReport]) -> UnknownSubscription:
    of_group = [report.wanted_topic for report in reports if report.name == name]
    if of_group:
        return UnknownSubscription(
            f"the group {name!r} is not listed with {topic!r}, but with {', '.join(map(repr, of_group))}"
        )
    names = sorted({report.name for report in reports})
    return UnknownSubscription(
        f"there is no group {name!r} on the server{suggestion(nearest_names(name, names))}"
    )


def _dead_of(report: GroupReport, dead: Mapping[tuple[str, str], int]) -> int:
    """The dead letters of a group on the topics that it is listed with."""
    wanted = matcher_of(report.wanted_topic) if report.wanted_topic else None
    known = {each.topic for each in report.topics}
    return sum(
        count
        for (group, topic), count in dead.items()
        if group == report.name and (wanted(topic) if wanted else topic in known)
    )


def _lost(losses: Mapping[str, int], name: str, matches: Callable[[str], bool]) -> int:
    """What a group lost on some topics; the names in the counts are a topic and a group."""
    found = ((about.partition(" "), count) for about, count in losses.items())
    return sum(count for (topic, _, group), count in found if group == name and matches(topic))


def _wish_report(wish: RetentionWish, now: int) -> WishReport:
    return WishReport(
        service=wish.service,
        min_age=wish.settled,
        unsubscribed_max_age=wish.unsubscribed,
        dead_letters_max_age=wish.letters,
        stored_before=None if wish.upto is None else max(0.0, (now - wish.upto) / 1000),
    )


def _topic_report(topic: str, now: int, group: Sequence[Any], alive: frozenset[str]) -> TopicReport:
    _name, pending, lowest, lag, delivered, consumers = group
    oldest = max(0.0, (now - int(lowest.partition(b"-")[0])) / 1000) if lowest else None
    names = {instance_of(name.decode(errors="replace")) for name in consumers}
    return TopicReport(
        topic=topic,
        pending=pending,
        oldest_pending=oldest,
        unread=None if lag < 0 else lag,
        instances=tuple(sorted(names & alive)),
        read_up_to=delivered.decode(),
    )


def _check_forgettable(name: str, reports: Sequence[GroupReport], backlog: int) -> None:
    problems: list[str] = []
    instances = sorted({instance for report in reports for instance in report.instances})
    if instances:
        problems.append(
            f"it is served by {', '.join(instances)}, which would make it again, and handle again "
            "what is there; stop them, or remove the subscription from the code, first"
        )
    if backlog:
        problems.append(f"it has not settled {backlog:,} events, which nobody would handle any more")
    if problems:
        raise GroupInUse(
            f"the group {name!r} was not forgotten: {'; '.join(problems)} (--force does it all the same)"
        )

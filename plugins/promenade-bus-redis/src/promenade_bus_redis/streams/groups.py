"""The groups on the server: their progress, their instances, and forgetting one."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from bus_core import BusError, UnknownSubscription
from bus_core.errors import suggestion
from bus_core.events import nearest_names
from bus_core.runtime import counted
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
    """Raised when a group has live instances or unsettled events, and was not forgotten."""


@attrs.frozen(kw_only=True)
class TopicReport:
    """The progress of a group on one topic. ``oldest_pending`` is in seconds, or None if nothing is pending.

    ``unread`` is None if the server does not report it without counting (before 7.0). ``oldest_unread`` is
    the age in seconds of the first unread event, or None if there is none or it was not requested.
    ``read_up_to`` is the id of the last entry read. ``published`` is the number of entries ever added to the
    topic, or None if the server does not report it (before 7.0).
    """

    topic: str
    pending: int
    oldest_pending: float | None
    unread: int | None
    instances: tuple[str, ...]
    read_up_to: str = "0-0"
    oldest_unread: float | None = None
    published: int | None = None


@attrs.frozen(kw_only=True)
class GroupReport:
    """A group on a topic or pattern in its record, or a foreign group on some topics.

    ``wanted_topic`` is empty for a foreign group. ``backlog`` is the number of unsettled events, or None if
    not counted. ``unseen`` is the time in seconds since an instance last served it. ``lost`` is the number of
    its lost events, and ``dead`` the number of its dead letters, if counted. ``is_abandoned``: a newer
    instance of its service runs without it.
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
        """The number of delivered, unsettled events."""
        return sum(topic.pending for topic in self.topics)

    @property
    def oldest_pending(self) -> float | None:
        """The age in seconds of the oldest pending event."""
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
        """Returns its topics, and other topics where it may have events, such as an inbox."""
        matches = matcher_of(self.wanted_topic)
        return frozenset(each.topic for each in self.topics) | {each for each in topics if matches(each)}

    @property
    def instances(self) -> tuple[str, ...]:
        """The live instances that serve it."""
        return tuple(sorted({*self.servers, *(name for topic in self.topics for name in topic.instances)}))

    @property
    def state(self) -> Literal["served", "idle", "orphaned"]:
        """``idle`` means that no instance serves it now, but possibly later."""
        if self.is_orphan:
            return "orphaned"
        return "served" if self.instances else "idle"


@attrs.frozen(kw_only=True)
class Forgotten:
    """The topics where a group was forgotten, and its unsettled events."""

    topics: tuple[str, ...]
    backlog: int


@attrs.frozen(kw_only=True)
class WishReport:
    """The retention times of a service in seconds; None means for ever.

    ``stored_before`` is None while the service runs or has a subscription. After that the times apply to
    events stored before the service ended, this many seconds ago.
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
        """Returns every group on the server or in the record, by name; ``count`` adds exact backlogs.

        A subscription with several topics or patterns is listed once for each.
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
        """Restricts a report to a topic's instances, which may serve another topic of the group."""
        if not part.service:
            return report
        return attrs.evolve(report, instances=tuple(x for x in report.instances if x in part.instances))

    async def wishes(self) -> Sequence[WishReport]:
        """Returns the retention time of each service, if it still affects retention."""
        services = self._services
        record = await services.records.read(await services.alive())
        return [_wish_report(wish, record.now) for wish in record.wishes]

    async def survey(
        self, topics: Iterable[str], *, instances: bool = True
    ) -> Mapping[str, Sequence[TopicReport]]:
        """Returns the progress of each group on these topics, with its ``instances`` if wanted."""
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
                        continue  # a foreign key
                    raise reply
                for group in reply[3]:
                    report = _topic_report(topic, int(reply[2]), group, alive, int(reply[1]))
                    found.setdefault(group[0].decode(errors="replace"), []).append(report)
        return found

    async def losses(self) -> Mapping[str, int]:
        """Returns the number of lost events, by topic and group, separated by a space."""
        key = self._services.keys.losses
        reply = await self._services.pipe.call("HGETALL", key, key=key)
        return {
            name.decode(errors="replace"): int(count)
            for name, count in zip(reply[::2], reply[1::2], strict=True)
            if count.isdigit()  # other fields are foreign
        }

    async def _backlogs(self, wanted: Sequence[tuple[str, Collection[str]]]) -> Sequence[int]:
        """Returns the number of unsettled entries of groups, each on its topics."""
        groups: dict[str, dict[str, None]] = {}
        for name, topics in wanted:
            for topic in topics:
                groups.setdefault(topic, {})[name] = None
        counts = await count_groups(self._services, groups)
        return [sum(counts[topic, name] for topic in topics) for name, topics in wanted]

    # --- forgetting ---------------------------------------------------------------------------------------

    async def forget(self, name: str, *, topic: str | None = None, force: bool = False) -> Forgotten:
        """Removes a group and its backlog from all of its topics; returns the removed backlog.

        With ``topic``, one of the listed topics or patterns, it removes the group only from topics that no
        other one of the group matches. Dead letters stay. Removing the last group of a stopped service also
        removes the service's retention time.

        Raises ``UnknownSubscription`` for an unknown group, and ``GroupInUse`` if an instance serves it or it
        has unsettled events, unless ``force`` is set.
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
                f"the group {name!r} changed meanwhile: an instance began to serve it, or it was forgotten; "
                "check it again: promenade-bus groups list"
            )
        await self._forget_wishes({report.part.service for report in forgotten if report.part is not None})
        await self._remove(name, selected if topic is not None else sorted(topics), force=force)
        locks = [services.keys.active(report.wanted_topic, name) for report in forgotten]
        await services.pipe.call_many([(lock, ("DEL", lock)) for lock in locks])
        return Forgotten(topics=tuple(selected), backlog=backlog)

    async def _forget_wishes(self, services: Collection[str]) -> None:
        """Forgets the retention times of services without groups and instances."""
        records = self._services.records
        record = await records.read(await self._services.alive())
        left = {part.service for part in record.parts}
        for wish in record.wishes:
            if wish.upto is not None and wish.service in services and wish.service not in left:
                await records.remove_wishes(record, wish.service)

    async def forget_service(self, service: str) -> None:
        """Removes the retention time of a service.

        Raises ``UnknownSubscription`` if it has none, and ``GroupInUse`` while it runs.
        """
        services = self._services
        alive = await services.alive() - {services.name}
        record = await services.records.read(alive)
        wishes = {wish.encode(): wish.service for wish in record.wishes}
        if service not in wishes.values():
            known = sorted({*wishes.values()})
            raise UnknownSubscription(
                f"no service {service!r} has a retention time{suggestion(nearest_names(service, known))}"
            )
        running = sorted(name for name in alive if wishes.get(record.instances.get(name, "")) == service)
        if running:
            raise GroupInUse(
                f"the retention time of {service!r} was not removed: it runs as {', '.join(running)} "
                "and would set it again; stop it, or change its 'bus.redis.retention'"
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
                f"the group {name!r} got new events meanwhile, and was not removed from their topics; check "
                "it again: promenade-bus groups list"
            )


def _no_group(name: str, topic: str | None, reports: Sequence[GroupReport]) -> UnknownSubscription:
    of_group = [report.wanted_topic for report in reports if report.name == name]
    if of_group:
        return UnknownSubscription(
            f"the group {name!r} is not listed with {topic!r}, but with {', '.join(map(repr, of_group))}"
        )
    names = sorted({report.name for report in reports})
    return UnknownSubscription(f"no group {name!r} on the server{suggestion(nearest_names(name, names))}")


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
    """Returns the number of events that a group lost on some topics."""
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


def _topic_report(
    topic: str, now: int, group: Sequence[Any], alive: frozenset[str], added: int
) -> TopicReport:
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
        published=None if added < 0 else added,
    )


def _check_forgettable(name: str, reports: Sequence[GroupReport], backlog: int) -> None:
    problems: list[str] = []
    instances = sorted({instance for report in reports for instance in report.instances})
    if instances:
        problems.append(
            f"it is served by {', '.join(instances)}, which would create it again, and handle the stored "
            "events again; first stop them, or remove the subscription from the code"
        )
    if backlog:
        problems.append(f"it has {counted(backlog, 'unsettled event')}, which nobody would handle any more")
    if problems:
        raise GroupInUse(
            f"the group {name!r} was not forgotten: {'; '.join(problems)} (--force overrides this)"
        )

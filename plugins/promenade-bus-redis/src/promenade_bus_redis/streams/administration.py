"""The groups on the server and replays, as ``bus_core.abc.Administration`` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bus_core import UnknownSubscription
from bus_core.abc import GroupFigures, Replayed, ReplayFilter
from bus_core.adapters import replayed_at
from bus_core.errors import suggestion
from bus_core.events import nearest_names
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.scripts import REPLAY
from promenade_bus_redis.streams.groups import GroupReport, RedisGroups
from promenade_bus_redis.streams.service_record import matcher_of
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.wire import EntryState, to_microseconds

__all__ = ["RedisAdministration"]

_LOOKED_AT: Final = 200
"""The maximum number of entries that one script looks at, because a script blocks the server."""

_KEPT: Final = 7 * 86_400_000
"""Milliseconds for which the progress of a replay is kept."""


class RedisAdministration:
    """Implements ``bus_core.abc.Administration``; methods raise ``RedisFailure`` when the server fails."""

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services

    async def groups(self) -> Sequence[GroupFigures]:
        """Returns every group, once for each of its topics or patterns."""
        reports = await RedisGroups(self._services()).list(count=True)
        return [_figures(report) for report in reports]

    # --- replay -------------------------------------------------------------------------------------------

    async def replay(self, group: str, where: ReplayFilter, *, replay_id: str | None, limit: int) -> Replayed:
        """Takes the next step of a replay, topic by topic; see ``bus_core.abc.Administration``."""
        events = unsettled = looked_at = 0
        for topic in await self._topics(group, where):
            begin = _first(where)
            while True:
                rest = _LOOKED_AT if replay_id is None else min(_LOOKED_AT, limit - looked_at)
                following, done, passed = await self._step(group, topic, where, replay_id, begin, rest)
                looked_at += rest if following else 0
                if replay_id is None:
                    events, unsettled = events + done, unsettled + passed
                if not following:
                    break
                begin = following
                if replay_id is not None and looked_at >= limit:
                    return Replayed(events=events + done, unsettled=unsettled + passed)
            if replay_id is not None:
                events, unsettled = events + done, unsettled + passed
        return Replayed(events=events, unsettled=unsettled, is_done=True)

    async def _step(
        self, group: str, topic: str, where: ReplayFilter, replay_id: str | None, begin: str, count: int
    ) -> tuple[str, int, int]:
        """Looks at some entries of a topic. Returns where to go on, and the totals of the replay there."""
        services, keys = self._services(), self._services().keys
        places = [keys.stream(topic), keys.inbox(topic, group), keys.replays(topic)]
        state = EntryState(history=(replayed_at(datetime.now(UTC)),)).encode()
        told: list[Any] = [group, f"{replay_id} {group}" if replay_id else "", begin, _last(where)]
        command = REPLAY.command(places, [*told, max(1, count), _KEPT, state, *(where.event_ids or ())])
        (reply,) = await services.pipe.call_many([(places[0], command)])
        if isinstance(reply, RedisFailure):
            raise reply
        return reply[0].decode(), int(reply[1]), int(reply[2])

    async def _topics(self, group: str, where: ReplayFilter) -> list[str]:
        """Returns the topics of a group that the filter selects; raises ``UnknownSubscription``."""
        services = self._services()
        record = await services.records.read(await services.alive())
        parts = [part for part in record.parts if part.group == group]
        if not parts:
            known = sorted({part.group for part in record.parts})
            raise UnknownSubscription(
                f"cannot replay: no instance has ever subscribed the group {group!r} on the server"
                f"{suggestion(nearest_names(group, known))}"
            )
        owned = [matcher_of(part.topic) for part in parts]
        wanted = matcher_of(where.topic or "#")
        topics: Iterable[str] = await services.registry.refresh()
        return sorted(each for each in topics if wanted(each) and any(owns(each) for owns in owned))


def _first(where: ReplayFilter) -> str:
    return "-" if where.stored_since is None else str(_milliseconds(where.stored_since))


def _last(where: ReplayFilter) -> str:
    """The last id before a time."""
    return "+" if where.stored_before is None else f"({_milliseconds(where.stored_before)}-0"


def _milliseconds(moment: datetime) -> int:
    """The first millisecond that is not before a moment."""
    rounded_up = moment + timedelta(microseconds=999)
    return max(0, to_microseconds(rounded_up) // 1000)


def _figures(report: GroupReport) -> GroupFigures:
    published = [topic.published for topic in report.topics]
    lag = report.unread
    return GroupFigures(
        group=report.name,
        subscription=report.subscription,
        topic=report.wanted_topic or ", ".join(topic.topic for topic in report.topics),
        instances=len(report.instances),
        published=None if None in published else sum(filter(None, published)),
        backlog=report.backlog or 0,
        lag=lag,
        in_flight=report.pending,
        retries=None if lag is None else max(0, (report.backlog or 0) - lag - report.pending),
        dead=report.dead or 0,
        oldest=report.oldest_unread,
    )

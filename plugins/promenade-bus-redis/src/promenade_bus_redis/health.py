"""The health probe ``redis``: checks that the server replies and keeps its data, and that groups keep up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from bus_core import AnyAdapter, CheckResult, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.config import format_duration
from bus_core.runtime import counted, lease_clock, printable
from promenade_bus_redis.config import ProbeOptions
from promenade_bus_redis.pubsub.adapter import PubsubAdapter
from promenade_bus_redis.pubsub.health import check_pubsub
from promenade_bus_redis.server.checks import is_replica, parse_info
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.groups import TopicReport
from promenade_bus_redis.streams.service_record import SubscribedTopic
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.verdicts import (
    DEGRADED,
    NOT_IN_USE,
    UNHEALTHY,
    Figures,
    Problem,
    server_problems,
    slow_answer,
    verdict,
)

__all__ = ["RedisProbe"]

_MOST_TOPICS: Final = 200
"""The maximum number of topics in one check; the next check reads the next ones."""

_MOST_NAMES: Final = 5

_STEP_NAMED: Final = 600.0
"""Seconds for which a step of the server's clock is reported."""


@attrs.frozen(kw_only=True)
class _Findings:
    """The results of one check. Times are seconds."""

    round_trip: float
    info: Mapping[str, str]
    servers: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, tuple[TopicReport, ...]]
    orphans: tuple[SubscribedTopic, ...]
    losses: Mapping[str, int]
    unread_for: float | None


class RedisProbe(HealthProbe):
    """Checks the server and the groups against the thresholds; reports every problem, the worst first."""

    def __init__(self, options: ProbeOptions, adapter: AnyAdapter | None) -> None:
        self._options = options
        self._adapter = adapter
        self._next_topic = 0
        self._groups: dict[str, dict[str, TopicReport]] = {}

    async def check(self, state: EngineState) -> CheckResult:
        adapter = self._adapter
        if isinstance(adapter, PubsubAdapter):
            return await check_pubsub(adapter, self._options, state)
        if not isinstance(adapter, StreamsAdapter):
            name = "another adapter" if adapter is None else repr(adapter.name)
            return CheckResult(HealthStatus.HEALTHY, f"the bus runs on {name}, not on Redis")
        services = adapter.running
        if services is None:
            return NOT_IN_USE
        try:
            found = await self._look(adapter, services)
        except RedisFailure as failure:
            return CheckResult(UNHEALTHY, str(failure), self._own_figures(adapter))
        problems = self._problems(adapter, services, state, found)
        figures = {**self._own_figures(adapter), **_figures(adapter, found)}
        return verdict(problems, _all_well(adapter, found), figures)

    # --- looking ------------------------------------------------------------------------------------------

    async def _look(self, adapter: StreamsAdapter, services: Services) -> _Findings:
        key = services.keys.epoch
        began = time.perf_counter()
        await services.pipe.call("PING", key=key)
        round_trip = time.perf_counter() - began
        servers = await _ask_servers(services)
        groups = await self._own_groups(adapter, services)
        record = await services.records.read(await services.alive())
        losses = await adapter.groups.losses()
        return _Findings(
            round_trip=round_trip,
            info=next(iter(servers.values())),
            servers=servers,
            groups=groups,
            orphans=record.orphans(adapter.options.retention.orphaned_after),
            losses=losses,
            unread_for=None if services.read_at is None else time.monotonic() - services.read_at,
        )

    async def _own_groups(
        self, adapter: StreamsAdapter, services: Services
    ) -> Mapping[str, tuple[TopicReport, ...]]:
        """Returns the progress of this instance's groups; of many topics, some at each check."""
        topics = adapter.upkeep.topics
        if len(topics) > _MOST_TOPICS:
            begin = self._next_topic % len(topics)
            self._next_topic += _MOST_TOPICS
            part = [*itertools.islice(itertools.cycle(topics), begin, begin + _MOST_TOPICS)]
        else:
            part = [*topics]
        own = frozenset(services.records.own)
        for name, reports in (await adapter.groups.survey(part, instances=False)).items():
            if name in own:
                self._groups.setdefault(name, {}).update({report.topic: report for report in reports})
        return {name: tuple(self._groups[name].values()) for name in sorted(own & self._groups.keys())}

    # --- judging ------------------------------------------------------------------------------------------

    def _problems(
        self, adapter: StreamsAdapter, services: Services, state: EngineState, found: _Findings
    ) -> Iterator[Problem]:
        yield from self._server(adapter, services, found)
        yield from self._losses(services, found)
        yield from self._reading(state, found)
        yield from self._progress(found)
        for part, (since, before) in sorted(services.records.waiting.items()):
            if time.monotonic() - since >= adapter.options.lease:
                topic, _, group = part.partition(" ")
                yield (
                    DEGRADED,
                    f"{group!r} on {topic!r} waits to become active: {_names(before)} served the same events "
                    "before, with another topic or pattern; stop them to let the new code take over",
                )
        if abandoned := [str(part) for part in found.orphans if part.is_abandoned]:
            yield (
                DEGRADED,
                f"nobody serves {_listed(abandoned)}: newer instances of the service run without it, and its "
                "events are kept; start an instance that serves it, or: promenade-bus groups forget GROUP "
                "--topic TOPIC",
            )
        if unseen := [str(part) for part in found.orphans if not part.is_abandoned]:
            yield (
                DEGRADED,
                f"no instance has served {_listed(unseen)} for "
                f"{format_duration(adapter.options.retention.orphaned_after)}, and its events are kept; "
                "start its service, or: promenade-bus groups forget GROUP",
            )

    def _server(self, adapter: StreamsAdapter, services: Services, found: _Findings) -> Iterator[Problem]:
        for place, info in found.servers.items():
            name = "the server" if len(found.servers) == 1 else f"the server {place}"
            yield from self._one_server(name, info, adapter.options.wanted_replicas)
        yield from slow_answer(found.round_trip, self._options.slow)
        step = services.leases.clock.last_step
        if step is not None and (ago := lease_clock() - step.at) < _STEP_NAMED:
            yield (
                DEGRADED,
                f"the clock of the server {step} {format_duration(float(round(ago)))} ago: retries of dead "
                "instances, and the removal of old events, may be late; check the time service of the server",
            )

    def _one_server(self, name: str, info: Mapping[str, str], wanted_replicas: int) -> Iterator[Problem]:
        fill = self._options.memory_fill
        yield from server_problems(name, info, loses="events or locks", fails="publish fails", fill=fill)
        replicas = int(info.get("connected_slaves", 0))
        if wanted_replicas > replicas:
            yield (
                UNHEALTHY,
                f"durability: replicated needs {counted(wanted_replicas, 'replica')}, but {name} has "
                f"{replicas}: publish raises PublishUncertain",
            )

    def _losses(self, services: Services, found: _Findings) -> Iterator[Problem]:
        losses = services.losses
        if losses.last_loss is not None and losses.degraded is not None:
            recent = time.monotonic() - losses.last_loss < self._options.loss_window
            yield UNHEALTHY if recent else DEGRADED, losses.degraded
        elif losses.degraded is not None:
            yield DEGRADED, losses.degraded
        before = losses.before
        since = {name: more for name, n in found.losses.items() if (more := n - before.get(name, 0)) > 0}
        if lost := max(losses.lost, sum(since.values())):
            named = f" ({_names(since)})" if since else ""
            yield (
                DEGRADED,
                f"{counted(lost, 'event')} lost since the start{named}; see the log of every instance",
            )
        if losses.dropped_by_cap:
            yield (
                DEGRADED,
                f"retention.max_length dropped {counted(sum(losses.dropped_by_cap.values()), 'event')} of "
                f"{_names(losses.dropped_by_cap)}",
            )

    def _reading(self, state: EngineState, found: _Findings) -> Iterator[Problem]:
        waits = any(not each.paused for each in state.subscriptions) and not state.running_handlers
        if waits and found.unread_for is not None and found.unread_for >= self._options.read_age:
            yield UNHEALTHY, f"no read has succeeded for {found.unread_for:.0f} s"

    def _progress(self, found: _Findings) -> Iterator[Problem]:
        for name, reports in found.groups.items():
            oldest = _oldest(reports)
            if oldest is not None and oldest >= self._options.pending_age:
                yield (
                    DEGRADED,
                    f"an event of {name!r} was stored {format_duration(float(round(oldest)))} ago and is "
                    "not settled: find out why its handler waits",
                )
            lag = _lag(reports)
            if lag is not None and lag >= self._options.lag:
                yield (
                    DEGRADED,
                    f"{counted(lag, 'event waits', 'events wait')} for {name!r}: make its handler faster, or "
                    "start more instances",
                )

    # --- figures ------------------------------------------------------------------------------------------

    def _own_figures(self, adapter: StreamsAdapter) -> Mapping[str, Any]:
        return FrozenMapping(
            {"lost": adapter.lost, "durability": adapter.options.durability, **adapter.loss_figures()}
        )


async def _ask_servers(services: Services) -> Mapping[str, Mapping[str, str]]:
    """Returns INFO of every server that takes writes; raises ``RedisFailure``."""
    servers: dict[str, Mapping[str, str]] = {}
    for address, reply in await services.pipe.ask_all("INFO"):
        if isinstance(reply, RedisFailure):
            raise reply
        servers[str(address)] = info = parse_info(reply)
        if is_replica(info):  # after a failover; a new connection may lead to the primary
            services.pipe.leave(RedisFailure(Kind.READ_ONLY, str(address), command="INFO"))
    return servers


def _figures(adapter: StreamsAdapter, found: _Findings) -> Figures:
    info = found.info
    figures: dict[str, float | int | str | bool] = {
        "round_trip_ms": round(found.round_trip * 1000, 3),
        "lost_by_all": sum(found.losses.values()),
        "orphaned_groups": len({part.group for part in found.orphans}),
        "maxmemory_policy": info.get("maxmemory_policy", "unknown"),
        "append_only_file": info.get("aof_enabled") == "1",
        "replicas": int(info.get("connected_slaves", 0)),
    }
    if found.unread_for is not None:
        figures["last_read_s"] = round(found.unread_for, 3)
    every = [oldest for reports in found.groups.values() if (oldest := _oldest(reports)) is not None]
    figures["oldest_pending_s"] = round(max(every, default=0.0), 3)
    for name, reports in found.groups.items():
        figures[f"pending {name}"] = sum(report.pending for report in reports)
        lag = _lag(reports)
        if lag is not None:
            figures[f"lag {name}"] = lag
    return figures


def _oldest(reports: tuple[TopicReport, ...]) -> float | None:
    return max((age for each in reports if (age := each.oldest_pending) is not None), default=None)


def _lag(reports: tuple[TopicReport, ...]) -> int | None:
    """Returns the number of unread events, or None where the server does not report it (before 7.0)."""
    known = [report.unread for report in reports if report.unread is not None]
    return sum(known) if len(known) == len(reports) else None


def _all_well(adapter: StreamsAdapter, found: _Findings) -> str:
    pending = sum(report.pending for reports in found.groups.values() for report in reports)
    kept = "with" if found.info.get("aof_enabled") == "1" else "without"
    return (
        f"replies in {found.round_trip * 1000:.1f} ms, {counted(pending, 'event')} pending, nothing lost; "
        f"durability {adapter.options.durability}, {kept} an append-only file"
    )


def _names(names: Any) -> str:
    return _listed([*map(repr, sorted(names))])


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST_NAMES} more" if len(texts) > _MOST_NAMES else ""
    return ", ".join(map(printable, texts[:_MOST_NAMES])) + more

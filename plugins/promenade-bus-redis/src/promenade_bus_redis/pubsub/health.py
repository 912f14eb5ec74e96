"""Health in ``mode: pubsub``: checks the server and the listening connection, and reports missed events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from bus_core import CheckResult, EngineState, FrozenMapping
from bus_core.runtime import counted
from promenade_bus_redis.config import ProbeOptions
from promenade_bus_redis.pubsub.adapter import PubsubAdapter, Running
from promenade_bus_redis.server.checks import is_replica, parse_info
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.verdicts import (
    DEGRADED,
    NOT_IN_USE,
    UNHEALTHY,
    Figures,
    Problem,
    slow_answer,
    verdict,
)

__all__ = ["check_pubsub"]

_MOST_NAMES: Final = 5


async def check_pubsub(adapter: PubsubAdapter, options: ProbeOptions, state: EngineState) -> CheckResult:
    """Runs the check; returns every problem, the worst first."""
    running = adapter.running
    if running is None:
        return NOT_IN_USE
    began = time.perf_counter()
    place = running.channels.place
    try:
        await running.pipe.call("PING", key=place)
        took = time.perf_counter() - began
        info = parse_info(await running.pipe.call("INFO", "replication", key=place))
    except RedisFailure as failure:
        return CheckResult(UNHEALTHY, str(failure), FrozenMapping(_figures(adapter, running)))
    if is_replica(info) and not running.locator.is_cluster:
        running.pipe.leave(RedisFailure(Kind.READ_ONLY, place, command="INFO"))
        summary = "the server is a replica: only its own listeners receive events published there"
        return CheckResult(UNHEALTHY, summary, FrozenMapping(_figures(adapter, running)))
    summary = f"answers in {took * 1000:.1f} ms, nothing missed; mode pubsub: at most once, may drop"
    figures = {"round_trip_ms": round(took * 1000, 3), **_figures(adapter, running)}
    return verdict(_problems(adapter, running, options, state, took), summary, figures)


def _problems(
    adapter: PubsubAdapter, running: Running, options: ProbeOptions, state: EngineState, took: float
) -> Iterator[Problem]:
    yield from slow_answer(took, options.slow)
    subscriber = running.subscriber
    if subscriber.has_consumers:
        silent = None if subscriber.read_at is None else time.monotonic() - subscriber.read_at
        if not subscriber.is_connected:
            yield UNHEALTHY, "no connection listens: events published now are missed"
        elif silent is not None and silent >= options.read_age:
            yield UNHEALTHY, f"no message for {silent:.0f} s"
    if missed := adapter.misses.total:
        worst = adapter.misses.by_subscription.most_common(_MOST_NAMES)
        named = ", ".join(f"{name!r} of {topic} {count:,}" for (topic, name), count in worst)
        yield (
            DEGRADED,
            f"{counted(missed, 'event')} missed since the start, as mode: pubsub allows ({named}): make "
            "handlers faster, raise the server's client-output-buffer-limit, or use mode: streams",
        )
    if strayed := running.publisher.strayed:
        yield (
            DEGRADED,
            f"{counted(strayed, 'event')} published to a former primary may have had no listener: check the "
            "time of the failover",
        )
    if dropped := running.letters.dropped:
        yield DEGRADED, f"{counted(dropped, 'dead letter')} dropped by a full store: redrive or purge in time"


def _figures(adapter: PubsubAdapter, running: Running) -> Figures:
    misses, publisher, subscriber = adapter.misses, running.publisher, running.subscriber
    figures: dict[str, float | int | str | bool] = {
        "mode": "pubsub",
        "delivery": "at most once, may drop",
        "lost": adapter.lost,
        "missed": misses.total,
        "missed_not_sent": misses.by_cause["not sent"],
        "missed_buffer_full": misses.by_cause["buffer full"],
        "strange_channels": misses.strange,
        "published": publisher.published,
        "unheard": publisher.unheard,
        "strayed": publisher.strayed,
        "connections_made": subscriber.connections,
    }
    if subscriber.read_at is not None:
        figures["last_read_s"] = round(time.monotonic() - subscriber.read_at, 3)
    for (topic, name), count in misses.by_subscription.most_common(_MOST_NAMES):
        figures[f"missed {name} of {topic}"] = count
    return figures

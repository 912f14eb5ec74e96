"""The health probe ``engine``: checks the load of the engine, and lost events."""

from __future__ import annotations

from collections.abc import Iterator

from bus_core import CheckResult, EngineState, FrozenMapping, HealthProbe, HealthStatus, SubscriptionState
from bus_core.runtime import counted
from promenade_bus_health.config import EngineOptions

__all__ = ["EngineProbe"]

_Problem = tuple[HealthStatus, str]


class EngineProbe(HealthProbe):
    """Compares a snapshot of the engine with the thresholds, and reports every problem, the worst first."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

    async def check(self, state: EngineState) -> CheckResult:
        problems = sorted(
            [
                *self._losses(state),
                *self._handlers(state),
                *self._buffer(state),
                *self._subscriptions(state),
            ],
            key=lambda problem: -problem[0].severity,
        )
        if not problems:
            return CheckResult(HealthStatus.HEALTHY, _in_hand(state), _figures(state))
        return CheckResult(problems[0][0], ". ".join(text for _, text in problems), _figures(state))

    def _losses(self, state: EngineState) -> Iterator[_Problem]:
        if state.lost:
            yield (
                HealthStatus.DEGRADED,
                f"lost={state.lost:,}: events and dead letters lost since the start; "
                "the log of 'promenade.bus' names them (search for 'lost')",
            )

    def _handlers(self, state: EngineState) -> Iterator[_Problem]:
        running = state.longest_running
        if running < self._options.handler_degraded:
            return
        status = (
            HealthStatus.UNHEALTHY if running >= self._options.handler_unhealthy else HealthStatus.DEGRADED
        )
        yield (
            status,
            f"a handler of {state.longest_running_subscription!r} has been running for {running:.0f} s "
            f"({state.running_handlers} of {state.worker_pool_size} workers are busy): "
            "find out why it waits, and give it a timeout",
        )

    def _buffer(self, state: EngineState) -> Iterator[_Problem]:
        overflow = _overflow_used(state)
        if overflow:
            full = overflow >= self._options.overflow_fill * state.overflow_size
            yield (
                HealthStatus.UNHEALTHY if full else HealthStatus.DEGRADED,
                f"handlers have published {counted(overflow, 'event')} over the full buffer "
                f"(at {state.overflow_size:,} their publish raises BufferFull): "
                f"they publish more events than are handled{_busiest(state)}",
            )
        elif state.unsettled >= self._options.buffer_fill * state.buffer_size:
            yield (
                HealthStatus.DEGRADED,
                f"the buffer holds {state.unsettled:,} of {state.buffer_size:,} events: handlers are slower "
                f"than publishers{_busiest(state)}; raise 'bus.worker_pool_size' or make handlers faster",
            )
        if state.waiting_publishers >= self._options.waiting_publishers:
            yield (
                HealthStatus.DEGRADED,
                f"{counted(state.waiting_publishers, 'caller waits', 'callers wait')} in publish for room in "
                f"the buffer ({state.unsettled:,} of {state.buffer_size:,} events) until handlers finish",
            )

    def _subscriptions(self, state: EngineState) -> Iterator[_Problem]:
        for subscription in state.subscriptions:
            waiting = counted(subscription.queued, "event waits", "events wait")
            if subscription.paused:
                if not self._options.paused_allowed:
                    yield (
                        HealthStatus.DEGRADED,
                        f"{subscription.name!r} is paused, and {waiting} for it: call resume()",
                    )
            elif subscription.queued >= self._options.backlog:
                yield (
                    HealthStatus.DEGRADED,
                    f"{waiting} for {subscription.name!r}: make its handler faster, or raise its concurrency",
                )


def _overflow_used(state: EngineState) -> int:
    return max(0, state.unsettled - state.buffer_size)


def _busiest(state: EngineState) -> str:
    """Names the subscription with the longest queue, if there is a queue."""

    def queued(subscription: SubscriptionState) -> int:
        return subscription.queued

    longest = max(state.subscriptions, key=queued, default=None)
    if longest is None or not longest.queued:
        return ""
    return f"; most events wait for {longest.name!r} ({longest.queued:,})"


def _in_hand(state: EngineState) -> str:
    return (
        f"{state.running_handlers} of {state.worker_pool_size} workers are busy, "
        f"{state.unsettled:,} of {state.buffer_size:,} events are in the buffer, nothing is lost"
    )


def _figures(state: EngineState) -> FrozenMapping[str, float | int | str | bool]:
    return FrozenMapping(
        {
            "running_handlers": state.running_handlers,
            "worker_pool_size": state.worker_pool_size,
            "unsettled": state.unsettled,
            "buffer_size": state.buffer_size,
            "overflow_used": _overflow_used(state),
            "overflowed": state.overflowed,
            "waiting_publishers": state.waiting_publishers,
            "waiting_retries": state.waiting_retries,
            "longest_running_s": round(state.longest_running, 3),
            "published": state.published,
            "unrouted": state.unrouted,
            "dead_lettered": sum(subscription.dead_lettered for subscription in state.subscriptions),
            "paused": sum(subscription.paused for subscription in state.subscriptions),
            "lost": state.lost,
        }
    )

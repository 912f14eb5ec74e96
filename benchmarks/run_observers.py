"""The cost of observers: the same events on a bus with each of them, and on one without.

Run it with ``python benchmarks/run_observers.py [--seconds N] [--sdk traces]``, with the plugins installed.
Figures are microseconds of processor time for an event that is published and handled in one process. Each is
the minimum of many short runs in turns, because the load of the machine varies.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final
from uuid import UUID

import attrs

from bus_core import BuildContext, Bus, Event, Factory, Observer, Topic, event, hookimpl, open_bus

BATCH: Final = 500


@event
class Ping(Event):
    """An event without a payload."""


PING: Final = Topic("benchmark.ping.sent", Ping)
EVENT: Final = Ping(aggregate_id=UUID(int=1))


def _timing(_subscription: object) -> Callable[[float, BaseException | None], None]:
    return lambda _seconds, _error: None


def _passing(_name: object) -> Any:
    def middleware(handler: Any) -> Any:
        async def passing(envelope: Any) -> None:
            await handler(envelope)

        return passing

    return middleware


@attrs.frozen
class _NoOptions:
    """The observers below have nothing to choose."""


def _offering(observer: Observer) -> Factory[Any, Observer]:
    def build(options: _NoOptions, context: BuildContext) -> Observer:
        return observer

    return Factory(options=_NoOptions, build=build)


class _Idle:
    """A plugin with observers of one part each, which do nothing."""

    @hookimpl
    def promenade_bus_observers(self) -> Mapping[str, Factory[Any, Observer]]:
        return {
            "timing": _offering(Observer(timing=_timing)),
            "consume": _offering(Observer(consume=_passing)),
            "publish": _offering(Observer(publish=_passing)),
        }


CASES: Final[Mapping[str, list[Any]]] = {
    "no observer": [],
    "`timing` that does nothing": ["timing"],
    "`consume` that does nothing": ["consume"],
    "`publish` that does nothing": ["publish"],
    "`prometheus`": ["prometheus"],
    "`prometheus`, `durations: false`": [{"prometheus": {"durations": False}}],
    "`opentelemetry`": ["opentelemetry"],
    "`opentelemetry`, `metrics: false`": [{"opentelemetry": {"metrics": False}}],
}


def set_up(sdk: str) -> None:
    """Sets providers of OpenTelemetry that sample, and export, nothing."""
    if sdk == "none":
        return
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))
    if sdk == "all":
        metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()]))


async def main(seconds: float) -> None:
    """Measures every case, and prints a table."""
    async with AsyncExitStack() as stack:
        buses: dict[str, Bus] = {}
        for number, (name, observers) in enumerate(CASES.items()):
            config = {
                "bus": {
                    "adapter": "memory",
                    "service": f"benchmark-{number}",
                    "buffer_size": 2 * BATCH,
                    "observers": observers,
                }
            }
            bus = buses[name] = open_bus(config, plugins=[_Idle()])

            async def handler(event: Ping) -> None:
                pass

            bus.subscribe(PING, handler, name="handler")
            await stack.enter_async_context(bus)
        least = dict.fromkeys(buses, float("inf"))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, bus in buses.items():
                least[name] = min(least[name], await _run(bus))
    bare = least["no observer"]
    print("| observers | µs | times the bare path | more |\n|---|---|---|---|")
    for name, cost in least.items():
        print(f"| {name} | {cost:.2f} | {cost / bare:.2f} | {cost - bare:+.2f} |")


async def _run(bus: Bus) -> float:
    publish = bus.publish
    began = time.process_time_ns()
    for _ in range(BATCH):
        await publish(PING, EVENT)
    await bus.drain()
    return (time.process_time_ns() - began) / BATCH / 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sdk", choices=["none", "traces", "all"], default="none", help="of OpenTelemetry")
    arguments = parser.parse_args()
    set_up(arguments.sdk)
    asyncio.run(main(arguments.seconds))

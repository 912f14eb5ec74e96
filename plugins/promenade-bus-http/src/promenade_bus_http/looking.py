"""The answers of probes about a bus, on any thread and event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import attrs

from bus_core import Bus, EngineState, HealthReport, HealthStatus

__all__ = ["Cause", "Heartbeat", "Limits", "Look", "NotAnswered", "look_at"]

T = TypeVar("T")

_BEAT: Final = 0.5
"""Seconds between two questions to the event loop of the bus."""


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be above 0, got {value!r}")


@attrs.frozen(kw_only=True)
class Limits:
    """From when on a bus is not ready, or its process is to be started again.

    - ``loop``: seconds without an answer of its event loop from which on it is not ready.
    - ``stuck``: the same from which on ``/livez`` says so, because only a restart helps.
    - ``buffer``: the share of ``bus.buffer_size`` from which on it is not ready.
    - ``worst``: the worst status of a check with which it is ready.
    """

    loop: float = attrs.field(default=2.0, validator=_positive)
    stuck: float = attrs.field(default=120.0, validator=_positive)
    buffer: float = attrs.field(default=1.0, validator=_positive)
    worst: HealthStatus = attrs.field(default=HealthStatus.DEGRADED, converter=HealthStatus)


@attrs.frozen
class Cause:
    """Why a bus is not ready: which check, in words, and the value beside what it may be."""

    check: str
    summary: str
    value: float | int | str
    threshold: float | int | str


class NotAnswered(Exception):
    """The event loop of the bus did not answer for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the event loop of the bus has not answered for {seconds:.1f} s")
        self.seconds = seconds


@attrs.frozen
class Look:
    """One look at a bus."""

    report: HealthReport
    state: EngineState | None

    def causes(self, limits: Limits) -> list[Cause]:
        """Everything that stands against being ready, the checks first."""
        found = [
            Cause(name, check.summary, check.status.value, limits.worst.value)
            for name, check in self.report.checks.items()
            if check.status.severity > limits.worst.severity
        ]
        state = self.state
        if state is not None and state.unsettled >= limits.buffer * state.buffer_size:
            most = limits.buffer * state.buffer_size
            found.append(
                Cause(
                    "buffer",
                    f"the buffer holds {state.unsettled:,} events and has room for {state.buffer_size:,}: "
                    "handlers are slower than publishers",
                    state.unsettled,
                    int(most) if most == int(most) else most,
                )
            )
        return found


class Heartbeat:
    """Asks the event loop of a bus again and again, from another one, whether it answers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._asked_at: float | None = None  # the first question that was not answered

    @property
    def silent_for(self) -> float:
        """For how many seconds the event loop of the bus has not answered."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    async def beat(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._ask()
            await asyncio.sleep(_BEAT)

    def _ask(self) -> None:
        loop = self._bus.loop
        if loop is None or self._asked_at is not None:
            return
        self._asked_at = time.monotonic()
        try:
            loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed, and the bus with it
            self._answer()

    def _answer(self) -> None:
        self._asked_at = None


async def look_at(bus: Bus, limits: Limits, heartbeat: Heartbeat | None = None) -> Look:
    """The answers of the health probes and the engine; raises ``NotAnswered``."""
    unusable = bus.unusable_report()
    if unusable is not None:
        return Look(unusable, None)
    if heartbeat is not None and heartbeat.silent_for > limits.loop:
        raise NotAnswered(heartbeat.silent_for)

    async def look() -> Look:
        report = await bus.health()
        return Look(report, bus.state())

    return await _on_loop_of(bus, look, limits.loop + bus.config.health.timeout)


async def _on_loop_of(bus: Bus, make: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    loop = bus.loop
    assert loop is not None, "the bus is open"
    if loop is asyncio.get_running_loop():
        return await make()
    began = time.monotonic()
    asked = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), loop))
    try:
        return await asyncio.wait_for(asked, seconds)
    except TimeoutError:
        raise NotAnswered(time.monotonic() - began) from None

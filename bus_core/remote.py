"""The bus's view of an adapter outside of the process: one publisher, and a pump for each subscription."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from bus_core.abc import Adapter, HealthStatus
from bus_core.carriers import Codec
from bus_core.clock import expiry
from bus_core.engine import Abandoned, DrainReport, Engine, abandoned
from bus_core.errors import BusError
from bus_core.events import Event
from bus_core.lanes import Lane
from bus_core.outcomes import place_of
from bus_core.publisher import Publisher
from bus_core.pump import Pump
from bus_core.routes import Route

__all__ = ["RemoteCarrier"]

logger = logging.getLogger("promenade.bus")

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
"""Seconds of real time between two looks at the backlog, while a drain waits for other instances."""

_UNWIND = 0.25
"""Seconds of real time that calls of the adapter get to end when the shutdown timeout is over."""


class RemoteCarrier:
    """Implements ``Carrier`` for an adapter that keeps messages outside of the process.

    ``check_accepting`` raises when the bus takes no events any more: an event may have waited meanwhile.
    """

    encodes = True

    def __init__(
        self,
        adapter: Adapter,
        engine: Engine,
        codec: Codec,
        *,
        publish_timeout: float,
        check_accepting: Callable[[], None],
    ) -> None:
        self._adapter = adapter
        self._engine = engine
        self._codec = codec
        self._check_accepting = check_accepting
        self._publisher = Publisher(adapter, engine.clock, publish_timeout)
        self._pumps: dict[Lane, Pump] = {}
        self._opening: dict[Pump, None] = {}
        self._starved: set[Pump] = set()

    @property
    def problem(self) -> tuple[HealthStatus, str] | None:
        """Every subscription that cannot receive at the moment."""
        failing = [pump.failing for pump in self._pumps.values() if pump.failing is not None]
        return (HealthStatus.UNHEALTHY, "; ".join(failing)) if failing else None

    # --- subscriptions ------------------------------------------------------------------------------------

    def attach(self, lane: Lane) -> None:
        pump = Pump(lane, self._adapter, self._engine, self._starved)
        lane.settler = self._pumps[lane] = pump
        self._opening[pump] = None
        pump.start()

    def detach(self, lane: Lane) -> None:
        self._pumps[lane].stop()

    def pause_changed(self, lane: Lane) -> None:
        self._pumps[lane].look_again()

    async def opened(self, lane: Lane) -> None:
        await self._pumps[lane].opened()

    async def left(self, lane: Lane) -> None:
        pump = self._pumps.get(lane)
        if pump is not None:
            await pump.close()
            self._pumps.pop(lane, None)

    # --- publishing ---------------------------------------------------------------------------------------

    def renew(self, route: Route) -> None:
        """Nothing is routed here."""

    async def accept(self, route: Route, event: Event, headers: Mapping[str, str]) -> None:
        """Publishes the event; waits for the bus's own subscriptions that are opening, lest they miss it."""
        message = self._codec.encode(route.topic, event, headers)
        if self._opening:
            await self._all_opened()
            self._check_accepting()
        await self._publisher.publish(message)
        route.counted += 1

    async def _all_opened(self) -> None:
        for pump in [*self._opening]:
            # One that fails to open is not waited for again: it begins with what is retained.
            await pump.first_try()
            self._opening.pop(pump, None)

    # --- drain and stop -----------------------------------------------------------------------------------

    async def drain(self, lanes: Sequence[Lane]) -> None:
        """Waits until nothing is left: here, and on the adapter for these lanes, whoever holds it.

        Other processes may publish all the time: it ends at the first moment at which all is settled.
        """
        pause = _FIRST_PAUSE
        while True:
            await self._engine.drain(lanes)
            if not self._engine.buffer.unsettled and not await self._has_backlog(lanes):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _has_backlog(self, lanes: Sequence[Lane]) -> bool:
        try:
            for lane in lanes:
                if await self._adapter.backlog(lane.spec):
                    return True
        except BusError as error:
            logger.warning("the backlog cannot be read: %s at %s", type(error).__name__, place_of(error))
            return True
        return False

    async def stop(self, lanes: Sequence[Lane], timeout: float) -> DrainReport:
        """Receives nothing more, gives back what no handler has begun, and finishes what runs."""
        clock = self._engine.clock
        began = clock.monotonic()
        pumps = [*self._pumps.values()]
        for pump in pumps:
            pump.stop()
        for pump in pumps:
            if pump.releases:
                pump.release_unstarted(self._engine.take_unstarted(pump.lane))

        def rest() -> float:
            return max(0.0, timeout - (clock.monotonic() - began))

        # What arrives late where nothing can be given back is to be handled as well.
        await self._within(rest(), [pump.stopped() for pump in pumps if not pump.releases])
        report = await self._engine.stop(lanes, rest(), lambda: None)
        undecided = await self._close_pumps(pumps, rest())
        await self._within(max(rest(), _UNWIND), [self._publisher.close()])
        left = (*report.abandoned, *undecided)
        return DrainReport(not left, left, clock.monotonic() - began)

    async def _close_pumps(self, pumps: Sequence[Pump], timeout: float) -> list[Abandoned]:
        """Lets outcomes be carried out for a little longer; reports those that were not."""
        if await self._within(max(timeout, _UNWIND), [pump.close() for pump in pumps]):
            left: list[Abandoned] = []
        else:
            left = [abandoned((job.lane, job, "settling")) for pump in pumps for job in pump.give_up()]
            if not await self._within(_UNWIND, [pump.close() for pump in pumps]):
                for pump in pumps:
                    pump.abort()
                logger.error("the adapter did not let go in time, and was left behind")
        self._pumps.clear()
        return left

    async def _within(self, seconds: float, calls: Sequence[Coroutine[Any, Any, None]]) -> bool:
        """Waits for all of them, on the clock; what takes longer goes on, and False is returned."""
        if not calls:
            return True
        expired, timer = expiry(self._engine.clock, seconds)
        done = asyncio.gather(*calls)
        try:
            await asyncio.wait((done, expired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return done.done()

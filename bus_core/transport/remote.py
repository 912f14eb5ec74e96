"""The bus's view of an adapter outside the process: one publisher, and a pump for each subscription."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from bus_core.abc import Adapter, CountingAdapter, HealthStatus
from bus_core.dispatch.codec import Codec
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.lane import Lane
from bus_core.dispatch.reports import Abandoned, DrainReport, abandoned
from bus_core.errors import PublishFailed
from bus_core.events.base import Event
from bus_core.events.messages import Message
from bus_core.runtime.failures import Trouble
from bus_core.runtime.logs import plain_logger
from bus_core.runtime.timeouts import expiry
from bus_core.transport.prefetch import PrefetchBudget
from bus_core.transport.publisher import Publisher
from bus_core.transport.pump import Pump
from bus_core.transport.routes import Route

__all__ = ["RemoteCarrier"]

logger = plain_logger("promenade.bus")

_FIRST_CHECK = 0.005
_LONGEST_CHECK = 0.25
"""The least seconds of real time between two looks at the backlog, while a drain waits for other instances.
"""

_CHECKS_AT_ONCE = 10
"""The number of subscriptions whose backlog is requested at once, where the adapter counts one by one."""

_GRACE = 0.35
"""Seconds of real time that calls of the adapter get after the shutdown timeout."""

_MOST_NAMED = 3
"""The most subscriptions with the same trouble that health names."""


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
        self._publish_timeout = publish_timeout
        self._check_accepting = check_accepting
        self._publisher = Publisher(adapter, engine.clock, publish_timeout)
        self._budget = PrefetchBudget(engine.buffer, engine.worker_pool_size)
        self._pumps: dict[Lane, Pump] = {}
        self._opening: dict[Pump, None] = {}
        engine.observe_process_pause(self._check_leases)

    def _check_leases(self) -> None:
        for pump in self._pumps.values():
            pump.check_leases()

    @property
    def problem(self) -> tuple[HealthStatus, str] | None:
        """The current failure of publishing or of subscriptions."""
        found = [problem for pump in self._pumps.values() if (problem := pump.problem) is not None]
        if found:
            more = [f"and {len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
            return HealthStatus.UNHEALTHY, "; ".join([*found[:_MOST_NAMED], *more])
        refused = self._publisher.problem
        return None if refused is None else (HealthStatus.DEGRADED, refused)

    # --- subscriptions ------------------------------------------------------------------------------------

    def attach(self, lane: Lane) -> None:
        pump = Pump(lane, self._adapter, self._engine, self._budget)
        lane.settler = self._pumps[lane] = pump
        self._opening[pump] = None
        pump.start()

    def detach(self, lane: Lane) -> None:
        pump = self._pumps[lane]
        self._opening.pop(pump, None)
        pump.stop()
        pump.begin_to_close(lambda: self._pumps.pop(lane, None))

    def pause_changed(self, lane: Lane) -> None:
        self._pumps[lane].wake()

    async def opened(self, lane: Lane) -> None:
        await self._pumps[lane].opened()

    async def left(self, lane: Lane) -> None:
        pump = self._pumps.get(lane)
        if pump is not None:
            await pump.close()

    # --- publishing ---------------------------------------------------------------------------------------

    def refresh(self, route: Route) -> None:
        """Does nothing: no event is routed in the process."""

    def accept(self, route: Route, event: Event, headers: Mapping[str, str]) -> Coroutine[Any, Any, None]:
        return self.forward(route, self._codec.encode(route.topic, event, headers))

    def hand_over(
        self, route: Route, event: Event, headers: Mapping[str, str]
    ) -> asyncio.Future[None] | None:
        """Begins to publish, unless a subscription of this bus is opening."""
        if self._opening:
            return None
        return self._publisher.publish(self._codec.encode(route.topic, event, headers), route)

    async def forward(self, route: Route, message: Message) -> None:
        """Publishes an event.

        Waits first for this bus's subscriptions that are opening, so that they do not miss it.
        """
        if self._opening:
            await self._all_tried()
            self._check_accepting()
        await self._publisher.publish(message, route)

    def hand_on(self, route: Route, message: Message) -> asyncio.Future[None] | None:
        return None if self._opening else self._publisher.publish(message, route)

    async def _all_tried(self) -> None:
        """Waits for the subscriptions that are opening, except those that have failed to: that may take long.

        Raises ``PublishFailed``.
        """
        expired, timer = expiry(self._engine.clock, self._publish_timeout)
        try:
            for pump in [*self._opening]:
                if not pump.first_try.done():  # many publishers may wait for many subscriptions
                    await asyncio.wait((pump.first_try, expired), return_when=asyncio.FIRST_COMPLETED)
                if not pump.first_try.done():
                    raise PublishFailed(
                        f"the subscription {pump.lane.spec.name!r} of this bus, which would miss the event, "
                        f"was not open within publish_timeout ({self._publish_timeout:g} s)",
                        permanent=False,
                    )
                self._opening.pop(pump, None)
        finally:
            timer.cancel()

    # --- drain and stop -----------------------------------------------------------------------------------

    async def backlogs(self, lanes: Sequence[Lane]) -> Sequence[int]:
        return [count async for counts in self._counted(lanes) for count in counts]

    async def drain(self, lanes: Sequence[Lane]) -> None:
        """Waits until nothing is left, here and on the adapter, for these lanes in all instances.

        Other processes may publish all the time, so it ends at the first moment at which everything is
        settled. An adapter may not know a subscription that is being opened.
        """
        trying = [pump.first_try for lane in lanes if (pump := self._pumps.get(lane)) is not None]
        if trying:
            await asyncio.wait(trying)
        pause = _FIRST_CHECK
        trouble = Trouble("a drain")
        quiet = 0  # the number of looks in a row that found nothing, while nothing happened here
        while True:
            await self._engine.drain(lanes)
            before, began = self._moved, time.monotonic()
            if await self._nothing_left(lanes, trouble) and self._moved == before:
                quiet += 1
                # The backlogs are read one after the other, and a handler elsewhere may have caused an event
                # on a topic that was read before. So with several, it looks twice.
                if quiet == 2 or len(lanes) < 2:
                    return
                continue
            quiet = 0
            # To read many subscriptions takes a while, in which the adapter does nothing else.
            await asyncio.sleep(max(pause, time.monotonic() - began))
            pause = min(pause * 2, _LONGEST_CHECK)

    @property
    def _moved(self) -> tuple[int, int]:
        return self._budget.arrived, self._publisher.published

    async def _nothing_left(self, lanes: Sequence[Lane], trouble: Trouble) -> bool:
        if self._engine.buffer.unsettled:
            return False
        try:
            async for counts in self._counted(lanes):
                if any(counts):
                    return False
        except Exception as error:
            trouble.failed("read the backlog", error)
            return False
        trouble.over()
        return True

    async def _counted(self, lanes: Sequence[Lane]) -> AsyncIterator[Sequence[int]]:
        """The backlogs of the lanes: all at once where the adapter can do that, otherwise a few at a time."""
        specs = [lane.spec for lane in lanes]
        if isinstance(self._adapter, CountingAdapter):
            yield await self._adapter.backlogs(specs)
            return
        for some in range(0, len(specs), _CHECKS_AT_ONCE):
            yield await asyncio.gather(*map(self._adapter.backlog, specs[some : some + _CHECKS_AT_ONCE]))

    async def stop(self, lanes: Sequence[Lane], timeout: float) -> DrainReport:
        """Receives nothing more, releases unstarted messages, and finishes running handlers."""
        clock = self._engine.clock
        began = clock.monotonic()
        over_at = 0.0

        def rest() -> float:
            return max(0.0, timeout - (clock.monotonic() - began))

        def note_the_time() -> None:
            nonlocal over_at
            over_at = time.monotonic()

        pumps = [*self._pumps.values()]
        for pump in pumps:
            pump.stop()
        for pump in pumps:
            if pump.releases:
                pump.release_unstarted(self._engine.take_unstarted(pump.lane))
        # Late messages that cannot be released must be handled as well.
        await self._within([pump.stopped() for pump in pumps if not pump.releases], rest())
        report = await self._engine.stop(lanes, rest(), note_the_time)
        calls = [self._publisher.close(), *(pump.close() for pump in pumps)]
        undecided: list[Abandoned] = []
        if not await self._within(calls, rest(), max(0.05, over_at + _GRACE - time.monotonic())):
            undecided = [abandoned((job.lane, job, "settling")) for pump in pumps for job in pump.settling]
            logger.error("the adapter did not close in time, and was left behind")
        self._publisher.abort()
        for pump in pumps:
            pump.abort()
        self._pumps.clear()
        left = (*report.abandoned, *undecided)
        return DrainReport(not left, left, clock.monotonic() - began)

    async def _within(
        self, calls: Sequence[Coroutine[Any, Any, None]], seconds: float, grace: float = 0.0
    ) -> bool:
        """Waits for all of them, for ``seconds`` on the clock and then for ``grace`` seconds of real time.

        Returns False when that does not suffice; the work then goes on.
        """
        if not calls:
            return True
        done = asyncio.gather(*calls, return_exceptions=True)
        expired, timer = expiry(self._engine.clock, seconds)
        try:
            if seconds:
                await asyncio.wait((done, expired), return_when=asyncio.FIRST_COMPLETED)
            if not done.done() and grace:
                await asyncio.wait((done,), timeout=grace)
        finally:
            timer.cancel()
        return done.done()

"""Guards: the fixtures pass them to the pytest hooks, which start and close the buses of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import pytest

from bus_core import Bus, DrainReport, SyncBus
from promenade_bus_testing.buses import Source, close_bus, make_bus, make_sync_bus
from promenade_bus_testing.recorder import recorder_of, sync_recorder_of
from promenade_bus_testing.virtual_clock import VirtualClock

__all__ = ["BusGuard", "Guard", "SyncBusGuard"]


class Guard(Protocol):
    """The interface of the hooks to the bus of a test."""

    async def begin(self) -> None:
        """Starts the bus on the loop of an async test, before the test."""

    async def end(self, *, failed: bool = False) -> None:
        """Closes the bus on the loop of an async test, after the test."""

    def finish(self) -> None:
        """Checks a test that has passed so far; raises for unexpected failures."""

    def story(self) -> str:
        """Returns the steps on the bus, for the report of a failed test."""
        ...

    def release(self) -> None:
        """Releases the bus at the end, whatever happened."""


class BusGuard:
    """The guard of a ``Bus``."""

    def __init__(
        self,
        config: Source | None,
        plugins: Iterable[object],
        clock: VirtualClock | None,
        settings: Mapping[str, Any],
        allow_failures: bool = False,
    ) -> None:
        self._clock = clock
        self._report: DrainReport | None = None
        self.bus: Bus = make_bus(config, plugins=plugins, clock=clock, **settings)
        self._recorder = recorder_of(self.bus)
        if allow_failures:
            self._recorder.failures.allow()

    async def begin(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise pytest.UsageError(
                "the fixture 'bus' needs asyncio, and this test runs on another library, such as trio; "
                "make the fixture 'anyio_backend' return 'asyncio'"
            ) from None
        await self.bus.start()

    async def end(self, *, failed: bool = False) -> None:
        self._report = await close_bus(self.bus, self._clock, 0 if failed else None)

    def finish(self) -> None:
        if self.bus.status == "open":
            raise AssertionError("the test left its bus open; use 'async with bus:' or 'await bus.close()'")
        if self._report is None and self.bus.status == "closed":
            self._report = _result(self.bus)
        self._recorder.failures.check(self._report)

    def story(self) -> str:
        return self._recorder.flow() or "nothing was published or handled"

    def release(self) -> None:
        pass


def _result(bus: Bus) -> DrainReport:
    """Returns the drain report of a bus that the test itself has closed, on a loop that has ended."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(bus.close())
    finally:
        loop.close()


class SyncBusGuard:
    """The guard of a ``SyncBus``."""

    def __init__(
        self,
        config: Source | None,
        plugins: Iterable[object],
        settings: Mapping[str, Any],
        allow_failures: bool = False,
    ) -> None:
        self.bus: SyncBus = make_sync_bus(config, plugins=plugins, **settings)
        self._recorder = sync_recorder_of(self.bus)
        if allow_failures:
            self._recorder.failures.allow()

    async def begin(self) -> None:
        pass

    async def end(self, *, failed: bool = False) -> None:
        pass

    def finish(self) -> None:
        self._recorder.failures.check(self.bus.close())

    def story(self) -> str:
        return self._recorder.flow() or "nothing was published or handled"

    def release(self) -> None:
        self.bus.close(0)

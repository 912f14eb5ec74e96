"""Recorders: what happened on a bus, and waiting until something has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, overload
from weakref import WeakKeyDictionary

from bus_core import Bus, Event, SyncBus, Topic
from promenade_bus_testing.observation import Observation
from promenade_bus_testing.selection import E, Selection, Where

__all__ = ["Recorder", "SyncRecorder", "recording", "sync_recording"]

_PATIENCE: Final = 5.0
"""Seconds of real time that ``wait_for`` waits unless told otherwise."""


class Recorder(Observation):
    """What happened on a bus of the running event loop. ``recording(bus)`` makes it."""

    @overload
    async def wait_for(
        self,
        topic: Topic[E],
        count: int = 1,
        timeout: float = _PATIENCE,
        *,
        where: Where[E] = None,
        handled: bool = False,
        by: str | None = None,
    ) -> list[E]: ...
    @overload
    async def wait_for(
        self,
        topic: str,
        count: int = 1,
        timeout: float = _PATIENCE,
        *,
        where: Where[Event] = None,
        handled: bool = False,
        by: str | None = None,
    ) -> list[Event]: ...
    async def wait_for(
        self,
        topic: Any,
        count: int = 1,
        timeout: float = _PATIENCE,
        *,
        where: Any = None,
        handled: bool = False,
        by: str | None = None,
    ) -> list[Any]:
        """Returns when ``count`` events that ``where`` selects were published to the topic, with these.

        With ``handled``, or ``by`` and the name of a subscription, when they were handled. Events from
        before the call count. Raises ``AssertionError``, with what is there instead, after ``timeout``
        seconds of real time, whatever the clock of the bus: on a virtual clock move the time before.
        """
        selection = Selection(topic, where, handled=handled, by=by)
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._listeners.append(listener)
        try:
            async with asyncio.timeout(timeout):
                while len(found := selection.events(self.steps)) < count:
                    await changed.wait()
                    changed.clear()
                return found
        except TimeoutError:
            raise self._too_few(selection, count, timeout) from None
        finally:
            self._listeners.remove(listener)


class SyncRecorder(Observation):
    """What happened on a ``SyncBus``. ``sync_recording(bus)`` makes it."""

    @overload
    def wait_for(
        self,
        topic: Topic[E],
        count: int = 1,
        timeout: float = _PATIENCE,
        *,
        where: Where[E] = None,
        handled: bool = False,
        by: str | None = None,
    ) -> list[E]: ...
    @overload
    def wait_for(
        self,
        topic: str,
        count: int = 1,
        timeout: float = _PATIENCE,
        *,
        where: Where[Event] = None,
        handled: bool = False,
        by: str | None = None,
    ) -> list[Event]: ...
    def wait_for(
        self,
        topic: Any,
        count: int = 1,
        timeout: float = _PATIENCE,
        *,
        where: Any = None,
        handled: bool = False,
        by: str | None = None,
    ) -> list[Any]:
        """Like ``Recorder.wait_for``, for threads."""
        selection = Selection(topic, where, handled=handled, by=by)
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(found := selection.events(self._steps)) < count:
                if not self._changed.wait(deadline - time.monotonic()):
                    break
        if len(found) < count:
            raise self._too_few(selection, count, timeout)
        return found


_recorders: WeakKeyDictionary[Bus, Observation] = WeakKeyDictionary()


def recorder_of(bus: Bus) -> Recorder:
    """The recorder of a bus; there is only one, made before the bus is started."""
    found = _recorders.get(bus)
    if not isinstance(found, Recorder):
        found = _recorders[bus] = Recorder(bus)
    return found


def sync_recorder_of(bus: SyncBus) -> SyncRecorder:
    """The same for a ``SyncBus``."""
    found = _recorders.get(bus.bus)
    if not isinstance(found, SyncRecorder):
        found = _recorders[bus.bus] = SyncRecorder(bus.bus)
    return found


@asynccontextmanager
async def recording(bus: Bus) -> AsyncIterator[Recorder]:
    """Records what happens on a bus that somebody else makes, starts and closes, inside of the block.

    Enter it before the bus is started; ``BusStateError`` says so when it is too late. Leaving the block
    raises ``UnseenFailures`` when something has failed by then that the test does not expect, and ends
    nothing: leave it after the bus is closed, so that nothing comes after the check. For the bus of a
    fixture or of ``isolated_bus``, which is looked after already, this is just its recorder.
    """
    recorder = recorder_of(bus)
    yield recorder
    if not recorder.is_looked_after:
        recorder.failures.check()


@contextmanager
def sync_recording(bus: SyncBus) -> Iterator[SyncRecorder]:
    """The same as ``recording`` for a ``SyncBus``."""
    recorder = sync_recorder_of(bus)
    yield recorder
    if not recorder.is_looked_after:
        recorder.failures.check()

"""Recorders: the events on a bus, and waiting for them."""

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
"""The default timeout of ``wait_for`` in real seconds."""


class Recorder(Observation):
    """The recorder of a bus on the running event loop; see ``recording(bus)``."""

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
        """Waits for ``count`` events that ``where`` selects, published to the topic, and returns them.

        With ``handled``, or ``by`` and the name of a subscription, it waits until they are handled. Earlier
        events count. Raises ``AssertionError`` with the recorded events after ``timeout`` real seconds,
        whatever the clock of the bus; advance a virtual clock before the call.
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
    """The recorder of a ``SyncBus``; see ``sync_recording(bus)``."""

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
    """Returns the single recorder of a bus; makes it before the bus starts."""
    found = _recorders.get(bus)
    if not isinstance(found, Recorder):
        found = _recorders[bus] = Recorder(bus)
    return found


def sync_recorder_of(bus: SyncBus) -> SyncRecorder:
    """Returns the single recorder of a ``SyncBus``."""
    found = _recorders.get(bus.bus)
    if not isinstance(found, SyncRecorder):
        found = _recorders[bus.bus] = SyncRecorder(bus.bus)
    return found


@asynccontextmanager
async def recording(bus: Bus) -> AsyncIterator[Recorder]:
    """Records a bus inside the block. The caller makes, starts and closes the bus.

    Enter the block before the bus starts, else ``BusStateError`` is raised. Leave it after the bus is closed:
    leaving raises ``UnseenFailures`` for unexpected failures so far, and closes nothing. For the bus of a
    fixture or of ``isolated_bus`` this only returns its recorder. A bus has one recorder: entered again, it
    still holds the earlier events.
    """
    recorder = recorder_of(bus)
    yield recorder
    if not recorder.is_looked_after:
        recorder.failures.check()


@contextmanager
def sync_recording(bus: SyncBus) -> Iterator[SyncRecorder]:
    """Like ``recording``, for a ``SyncBus``."""
    recorder = sync_recorder_of(bus)
    yield recorder
    if not recorder.is_looked_after:
        recorder.failures.check()

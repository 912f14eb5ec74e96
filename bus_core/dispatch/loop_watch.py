"""Notices that the event loop of a bus is being closed although the bus is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

from bus_core.runtime.logs import counted, plain_logger

__all__ = ["LoopWatch"]

logger = plain_logger("promenade.bus")

_RECOVERY_CHECK = 0.1
"""Seconds after which a loop whose tasks were all cancelled counts as open again."""


class LoopWatch:
    """A task that waits for ever, and so is cancelled only with all other tasks of the loop.

    ``asyncio.run`` does that at its end. Handlers may cancel their worker, which the bus survives.
    ``unsettled`` returns the number of events that a closed loop loses. ``resumed`` is called when the loop
    goes on nevertheless.
    """

    def __init__(self, *, unsettled: Callable[[], int], resumed: Callable[[], None]) -> None:
        self._unsettled = unsettled
        self._resumed = resumed
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to watch a loop."""
        self._task = loop.create_task(self._watch(loop), name="promenade-loop-watch", context=Context())
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Ends the watch."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()

    @property
    def torn_down(self) -> bool:
        """True when somebody else has cancelled the watch."""
        return self._task is not None and self._task.cancelling() > 0 and not self._stopping

    @staticmethod
    async def _watch(loop: asyncio.AbstractEventLoop) -> None:
        await loop.create_future()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Also when it was cancelled before its first step."""
        if self._stopping:
            return
        if unsettled := self._unsettled():
            logger.critical(
                "the event loop was closed, but the bus was not: %s lost; close the bus",
                counted(unsettled, "event is", "events are"),
            )
        loop = task.get_loop()
        loop.call_later(_RECOVERY_CHECK, self._resume_if_loop_runs, loop)

    def _resume_if_loop_runs(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop goes on: a program cancelled every task in order to shut down, but still uses its bus."""
        if self._stopping:
            return
        logger.warning("the event loop was not closed, only all of its tasks were cancelled: the bus goes on")
        self.start(loop)
        self._resumed()

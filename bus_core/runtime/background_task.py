"""A task that survives cancellation until it is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bus_core.runtime.failures import FIRST_PAUSE

__all__ = ["BackgroundTask"]


class BackgroundTask:
    """Runs ``work``, which does not end by itself, until ``end``.

    A program may cancel all tasks: then ``cut`` is called, and the work starts again after a pause.
    """

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        *,
        cut: Callable[[], object] | None = None,
    ) -> None:
        self._work = work
        self._name = name
        self._cut = cut
        self._task: asyncio.Task[None] | None = None
        self._over = False

    @property
    def is_started(self) -> bool:
        """True from ``start`` to ``end``."""
        return self._task is not None

    def start(self) -> None:
        """Begins the work; no-op after ``end``."""
        if not self._over:
            self._task = asyncio.get_running_loop().create_task(self._work(), name=self._name)
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._over:
            if self._cut is not None:
                self._cut()
            # Not at once: a loop that is being closed must keep nothing of it.
            task.get_loop().call_later(FIRST_PAUSE, self.start)

    async def end(self) -> None:
        """Cancels the work, and returns when it has ended."""
        self._over = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

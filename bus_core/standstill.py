"""What a process holds may be others' after it stood still: nothing of it is begun before that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from contextvars import Context

from bus_core.abc import LeasingConsumer
from bus_core.jobs import Job
from bus_core.lanes import Lane
from bus_core.sleeping import Sleeper
from bus_core.troubles import FIRST_PAUSE, Trouble, answers_to, grown

__all__ = ["Doubt"]


class Doubt:
    """Holds a lane back while its consumer finds out what it owns still.

    ``over`` is called with the jobs that it does not own, which may be none; it lets the lane go on.
    """

    def __init__(self, lane: Lane, consumer: LeasingConsumer, over: Callable[[Set[Job]], None]) -> None:
        self.trouble = Trouble(f"the subscription {lane.spec.name!r}")
        self._lane = lane
        self._consumer = consumer
        self._over = over
        self._task: asyncio.Task[None] | None = None
        self._sleeper = Sleeper()
        self._stopping = False

    def look(self) -> None:
        """Begins to ask, if there is a reason to."""
        if self._task is None and not self._stopping and self._consumer.in_doubt:
            self._lane.hold_back()
            self._task = asyncio.get_running_loop().create_task(
                self._ask(), name=f"promenade-confirm-{self._lane.spec.name}", context=Context()
            )

    async def _ask(self) -> None:
        lost: Set[Job] = frozenset()
        pause = FIRST_PAUSE
        try:
            while not self._stopping:
                jobs = self._lane.held_jobs()
                answers = await answers_to(self._consumer.confirm, [job.receipt for job in jobs], "messages")
                if not isinstance(answers, BaseException):
                    lost = {job for job, is_owned in zip(jobs, answers, strict=True) if not is_owned}
                    self.trouble.over()
                    break
                self.trouble.failed("confirm what it holds", answers)
                await self._sleeper.sleep(pause)
                pause = grown(pause)
        finally:
            self._task = None
            self._over(lost)

    def stop(self) -> None:
        """Asks no more; what is held is given back, or handled as it is."""
        self._stopping = True
        self._sleeper.wake()

    async def ended(self) -> None:
        """Returns when no call of the consumer is under way."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def abort(self) -> None:
        """Cancels even a call that is under way."""
        if self._task is not None:
            self._task.cancel()

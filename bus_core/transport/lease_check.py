"""After a pause, other consumers may own our messages: confirm before handling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Set
from contextvars import Context

from bus_core.abc import LeasingConsumer
from bus_core.dispatch.jobs import Job
from bus_core.dispatch.lane import Lane
from bus_core.runtime.failures import FIRST_PAUSE, Trouble, answers_to, ended, next_pause
from bus_core.runtime.sleeper import Sleeper

__all__ = ["LeaseCheck"]


class LeaseCheck:
    """Holds a lane back while its consumer confirms the messages that it still owns.

    ``unstarted`` returns the jobs that no handler runs. ``over`` is called with those of them that other
    consumers own, possibly none. It releases the lane.
    """

    def __init__(
        self,
        lane: Lane,
        consumer: LeasingConsumer,
        unstarted: Callable[[], Sequence[Job]],
        over: Callable[[Set[Job]], None],
    ) -> None:
        self.trouble = Trouble(f"the subscription {lane.spec.name!r}")
        self._lane = lane
        self._consumer = consumer
        self._unstarted = unstarted
        self._over = over
        self._lost: Set[Job] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._sleeper = Sleeper()
        self._stopping = False

    def start_if_in_doubt(self) -> None:
        """Begins the check, if there is a reason."""
        if self._task is None and not self._stopping and self._is_in_doubt():
            self._lane.hold_back()
            self._lost = frozenset()
            self._task = asyncio.get_running_loop().create_task(
                self._ask(), name=f"promenade-confirm-{self._lane.spec.name}", context=Context()
            )
            self._task.add_done_callback(self._ended)

    def _is_in_doubt(self) -> bool:
        try:
            return self._consumer.in_doubt
        except Exception as error:  # a worker calls this, and an error must not end it
            self.trouble.failed("check its lease", error)
            return True

    async def _ask(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping:
            jobs = self._unstarted()
            answers = await answers_to(self._consumer.confirm, [job.receipt for job in jobs], "messages")
            if not isinstance(answers, BaseException):
                self._lost = {job for job, is_owned in zip(jobs, answers, strict=True) if not is_owned}
                return
            self.trouble.failed("confirm what it holds", answers)
            if not self._stopping:
                await self._sleeper.sleep(pause)
                pause = next_pause(pause)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Releases the lane in any case, also when a program has cancelled all tasks."""
        self._task = None
        ended(task, self._lane.spec.name)
        self.trouble.over()
        self._over(self._lost)

    def stop(self) -> None:
        """Ends the checks. Held messages are released, or handled unconfirmed."""
        self._stopping = True
        self._sleeper.wake()

    async def ended(self) -> None:
        """Returns when no call of the consumer is running."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def abort(self) -> None:
        """Cancels even a running call."""
        if self._task is not None:
            self._task.cancel()

"""Settlement for one consumer: carries out outcomes in batches, and retries failed ones."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from itertools import chain

from bus_core.abc import Consumer
from bus_core.dispatch.jobs import Job
from bus_core.errors import LeaseLost
from bus_core.events.messages import Outcome
from bus_core.runtime.failures import FIRST_PAUSE, Trouble, answers_to, ended, next_pause
from bus_core.runtime.logs import counted, plain_logger
from bus_core.runtime.sleeper import Sleeper

__all__ = ["Done", "Settlement"]

logger = plain_logger("promenade.bus")

_LARGEST_BATCH = 512
"""The most outcomes of one call of a consumer."""

_Item = tuple["Job | None", Outcome]

Done = Callable[[Sequence["Job | None"], int], None]
"""Is called with the finished jobs, with None for those that the engine does not count, and the number of
late ones.
"""


class Settlement:
    """Gives outcomes to a consumer, one batch after the other, until each of them is carried out.

    Failed outcomes wait with growing pauses. They block no others, unless every outcome fails. ``done`` is
    called with the finished jobs.
    """

    def __init__(self, name: str, consumer: Consumer, done: Done) -> None:
        self.trouble = Trouble(f"the subscription {name!r}")
        self.calling_since: float | None = None
        self._name = name
        self._consumer = consumer
        self._done = done
        self._fresh: deque[_Item] = deque()
        self._notes: dict[Job, Outcome] = {}  # of held jobs: only the latest note counts
        self._failed: list[_Item] = []
        self._due = 0.0  # the time of the next retry of failed outcomes
        self._pause = FIRST_PAUSE
        self._blocked = False  # every outcome fails: new ones wait as well
        self._under_way: Sequence[_Item] = ()  # without notes
        self._task: asyncio.Task[None] | None = None
        self._sleeper = Sleeper()
        self._giving_up = False
        self._aborted = False

    @property
    def jobs(self) -> list[Job]:
        """The jobs that are decided, but not carried out."""
        items = chain(self._under_way, self._failed, self._fresh)
        return [job for job, _ in items if job is not None]

    @property
    def failed(self) -> int:
        """The number of failed outcomes that wait for a retry."""
        return len(self._failed)

    def put(self, job: Job, outcome: Outcome, *, counted: bool = True) -> None:
        """Requests an outcome. ``counted`` says that the engine waits for its end."""
        self._notes.pop(job, None)  # the note is outdated
        self._fresh.append((job if counted else None, outcome))
        self._go_on()

    def put_back(self, outcome: Outcome) -> None:
        """Requests the outcome of a message that never became a job."""
        self._fresh.append((None, outcome))
        self._go_on()

    def note(self, job: Job, outcome: Outcome) -> None:
        """Requests a ``hold`` once: if it fails, the next one may succeed."""
        self._notes[job] = outcome
        self._go_on()

    async def close(self) -> None:
        """Returns when all outcomes are carried out, or were given up."""
        while self._task is not None:
            await asyncio.wait((self._task,))

    def give_up(self) -> None:
        """Retries failed outcomes only once more."""
        self._giving_up = True
        self._due = 0.0
        self._sleeper.wake()

    def abort(self) -> None:
        """Cancels even a running call."""
        self._aborted = True
        if self._task is not None:
            self._task.cancel()

    # --- the loop -----------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self._task is None:
            self._start()
        elif not self._blocked:
            self._sleeper.wake()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(
            self._settle_all(), name=f"promenade-settle-{self._name}", context=Context()
        )
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Goes on although it was cancelled, because a program may cancel all tasks."""
        ended(task, self._name)
        if self._task is task:  # cancelled before its first step
            self._task = None
        if self._task is None and (self._fresh or self._failed) and not (self._giving_up or self._aborted):
            # Not at once: a loop that is being closed must keep nothing of it.
            task.get_loop().call_later(FIRST_PAUSE, self._revive)

    def _revive(self) -> None:
        if self._task is None and not self._aborted:
            self._start()

    async def _settle_all(self) -> None:
        try:
            while self._fresh or self._notes or self._failed:
                now = time.monotonic()
                ready = now >= self._due
                if not ready and (self._blocked or not (self._fresh or self._notes)):
                    await self._sleeper.sleep(self._due - now)
                    continue
                if not await self._settle_some(retrying=ready):
                    return
        finally:
            self._fresh.extendleft(reversed(self._under_way))  # cancelled: the results are unknown
            self._under_way = ()
            self._task = None  # at once: the next outcome may come before the task is done

    async def _settle_some(self, *, retrying: bool) -> bool:
        """Settles one batch. Returns False when it failed, and must not be retried."""
        items = self._failed[:_LARGEST_BATCH] if retrying else []
        del self._failed[: len(items)]
        again = len(items)
        while self._fresh and len(items) < _LARGEST_BATCH:
            items.append(self._fresh.popleft())
        notes, self._notes = self._notes, {}
        self._under_way = items
        results = await self._results([*(outcome for _, outcome in items), *notes.values()])
        self._under_way = ()
        error = next((each for each in results if each is not None and not isinstance(each, LeaseLost)), None)
        failed = self._tell(items, results)
        self._failed += failed
        if error is None:
            self._blocked = False
            if retrying:
                self._due, self._pause = 0.0, FIRST_PAUSE
            if not self._failed:
                self.trouble.over()
            return True
        self.trouble.failed("settle", error)
        nothing = all(each is not None and not isinstance(each, LeaseLost) for each in results)
        # A dead letter may fail for a reason of its own, which does not concern new outcomes.
        others = bool(notes) or any(outcome.action != "dead_letter" for _, outcome in items[again:])
        self._blocked = nothing and others
        if retrying:
            self._due = time.monotonic() + self._pause
            self._pause = next_pause(self._pause)
        return not (self._giving_up and failed)

    async def _results(self, outcomes: Sequence[Outcome]) -> Sequence[BaseException | None]:
        self.calling_since = time.monotonic()
        try:
            answers = await answers_to(self._consumer.settle, outcomes, "outcomes")
        finally:
            self.calling_since = None
        if isinstance(answers, BaseException):
            return [answers for _ in outcomes]
        return [
            each if each is None or isinstance(each, BaseException) else TypeError(f"{each!r} is no result")
            for each in answers
        ]

    def _tell(self, items: Sequence[_Item], results: Sequence[BaseException | None]) -> list[_Item]:
        """Reports finished jobs, and returns the outcomes to retry."""
        failed: list[_Item] = []
        ended: list[Job | None] = []
        late = 0
        for item, result in zip(items, results, strict=False):  # the notes behind them do not matter
            if result is None:
                ended.append(item[0])
            elif isinstance(result, LeaseLost):
                ended.append(item[0])
                late += 1
            else:
                failed.append(item)
        if late:
            logger.warning(
                "%s settled too late: taken over by other consumers (subscription=%s)",
                counted(late, "message was", "messages were"),
                self._name,
            )
        if ended:
            self._done(ended, late)
        return failed

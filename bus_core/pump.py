"""A pump carries messages from one consumer of an adapter to its lane, and outcomes back.

It never cancels a call of the consumer: a message that is on its way would be stranded. It goes on for
as long as the bus is open, whatever the consumer raises: the pauses grow, and health says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextvars import Context
from typing import Literal

from bus_core.abc import Adapter, Consumer
from bus_core.engine import Engine
from bus_core.errors import BusError, ConsumerDied, LeaseLost, UnknownSubscription
from bus_core.jobs import Job
from bus_core.lanes import Lane
from bus_core.messages import DeadLetter, Outcome, Received
from bus_core.outcomes import decide, place_of

__all__ = ["Pump"]

logger = logging.getLogger("promenade.bus")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
"""Seconds of real time between two tries of something that fails."""

_FIRST_BATCH = 16
_LARGEST_BATCH = 512
_QUICK, _SLOW = 0.05, 0.25
"""Seconds to settle a batch in: below the first more is taken at once, above the other less."""


class Pump:
    """Implements ``Settler`` for one lane of an adapter outside of the process."""

    def __init__(self, lane: Lane, adapter: Adapter, engine: Engine, starved: set[Pump]) -> None:
        self.lane = lane
        self.failing: str | None = None  # what the consumer cannot do now, and why
        self.releases = adapter.features.durable and lane.spec.mode == "group"
        self._adapter = adapter
        self._engine = engine
        self._consumer: Consumer | None = None
        self._opened: asyncio.Future[None] | None = None
        self._tried: asyncio.Future[None] | None = None
        self._stopping = False
        self._giving_up = False
        self._held: dict[Job, None] = {}  # what was received and is not decided, in order
        self._unsettled = 0  # those, and what is decided but not carried out
        self._outcomes: list[tuple[Job | None, Outcome]] = []
        self._settling: asyncio.Task[None] | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._sleepers: list[asyncio.Future[None]] = []
        self._starved = starved  # those that wait until lanes of other pumps leave some room
        self._least = max(_FIRST_BATCH, engine.worker_pool_size)
        self._most = self._least
        self._filled_at: float | None = None  # when the last batch came, if there was more where it came from

    # --- its life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the consumer, and begins to receive."""
        loop = asyncio.get_running_loop()
        self._opened = self._opened or loop.create_future()
        self._tried = self._tried or loop.create_future()
        self._receiving = loop.create_task(
            self._receive_all(), name=f"promenade-receive-{self.lane.spec.name}", context=Context()
        )
        self._receiving.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A pump that ended although nobody stopped it goes on: a program may cancel every task there is."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.critical(
                "an error in the engine ended a pump: %s at %s (subscription=%s)",
                type(error).__name__,
                place_of(error),
                self.lane.spec.name,
            )
        if not self._stopping:
            # Not at once: when the loop is being closed, nothing of it may be left.
            task.get_loop().call_later(_FIRST_PAUSE, self._go_on)

    def _go_on(self) -> None:
        if not self._stopping:
            self.start()

    async def opened(self) -> None:
        """Returns when the subscription is open; raises ``UnknownSubscription`` when it was left before."""
        assert self._opened is not None, "start() comes first"
        await asyncio.shield(self._opened)

    async def first_try(self) -> None:
        """Returns when the subscription is open, or could not be opened at first."""
        assert self._tried is not None, "start() comes first"
        await asyncio.shield(self._tried)

    def stop(self) -> None:
        """Receives nothing more. What is held is settled, or released, by others."""
        self._stopping = True
        if self._consumer is not None:
            self._consumer.stop()
        self._wake()

    async def stopped(self) -> None:
        """Returns when no further message can arrive."""
        if self._receiving is not None:
            await asyncio.wait((self._receiving,))

    async def close(self) -> None:
        """Carries out what is decided, and lets the consumer go. Comes after ``stop``."""
        await self.stopped()
        if self._settling is not None:
            await asyncio.wait((self._settling,))
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                await consumer.close()
            except Exception:
                logger.exception("closing the consumer of %r failed", self.lane.spec.name)

    def abort(self) -> None:
        """Cancels what does not end, whatever becomes of it: the process has no more time."""
        for task in (self._receiving, self._settling):
            if task is not None:
                task.cancel()

    def give_up(self) -> list[Job]:
        """Tries no failed outcome again; returns the jobs that are decided but not carried out."""
        self._giving_up = True
        self._wake()
        return [job for job, _ in self._outcomes if job is not None]

    def look_again(self) -> None:
        """Something it may be waiting for has changed: room, or whether the lane is paused."""
        self._wake()

    # --- receiving ----------------------------------------------------------------------------------------

    async def _receive_all(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping:
            try:
                if self._consumer is None:
                    await self._open()
                elif limit := self._limit():
                    await self._receive(self._consumer, limit)
                else:
                    await self._sleep(None)
            except Exception as error:
                self._failed(error)
                self._has_tried()
                await self._sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._recovered()
                pause = _FIRST_PAUSE
        self._has_tried()
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(
                UnknownSubscription(f"the subscription {self.lane.spec.name!r} was closed before it was open")
            )
            self._opened.exception()  # nobody has to wait for it

    async def _open(self) -> None:
        self._consumer = await self._adapter.open_consumer(self.lane.spec)
        if self._stopping:
            self._consumer.stop()
        if self._opened is not None:
            _resolve(self._opened)
        self._has_tried()

    def _has_tried(self) -> None:
        if self._tried is not None:
            _resolve(self._tried)

    def _limit(self) -> int:
        """How many messages may be taken now; 0 while there is no room, or the lane is paused."""
        if self.lane.paused:
            return 0
        own = self._most - self._unsettled
        if own * 2 < self._most:
            return 0  # not one by one while others are being handled: batches are what makes it cheap
        buffer = self._engine.buffer
        room = min(own, buffer.size - buffer.unsettled)
        if room <= 0:
            self._starved.add(self)
            return 0
        self._adapt()
        return room

    def _adapt(self) -> None:
        """Takes more at once where handlers are fast, and less where others could handle it meanwhile."""
        if self._filled_at is None:
            return
        seconds = time.monotonic() - self._filled_at
        self._filled_at = None
        if seconds < _QUICK:
            self._most = min(self._most * 2, _LARGEST_BATCH)
        elif seconds > _SLOW:
            self._most = max(self._most // 2, self._least)

    async def _receive(self, consumer: Consumer, limit: int) -> None:
        began = time.monotonic()
        batch = await consumer.receive(limit)
        for received in batch:
            self._accept(received)
        self._filled_at = time.monotonic() if len(batch) == limit else None
        if not batch and time.monotonic() - began < _FIRST_PAUSE / 10:
            await self._sleep(_FIRST_PAUSE / 10)  # an adapter that does not wait must not starve the loop

    def _accept(self, received: Received) -> None:
        self._unsettled += 1
        if self._stopping and self.releases:
            self._put(None, Outcome("release", received.receipt, 0.0, received.attempt, received.history))
            return
        if received.attempt > 1 and not received.owner_died:
            self.lane.retried += 1
        job = self._engine.receive(self.lane, received, self._doom(received))
        self._held[job] = None

    def _doom(self, received: Received) -> str | None:
        """Why a message is not to be handled, if it is not."""
        if received.fault is not None:
            return f"cannot be read: {received.fault}"
        # After a single death one cannot tell whether this message was being handled, or lay beside the
        # one that was: it gets another chance in any case.
        if received.owner_died and len(received.history) > 1:
            lane = self.lane
            decision = decide(
                ConsumerDied("the process that handled it died"),
                received.attempt - 1,
                lane.policy_for(received.message.topic),
                lane.give_up_on,
            )
            if decision.action == "dead_letter":
                return f"consumer died; {decision.reason}"
        return None

    def _failed(self, error: Exception) -> None:
        name, kind = self.lane.spec.name, type(error).__name__
        doing = "be opened" if self._consumer is None else "receive"
        failing = f"the subscription {name!r} cannot {doing}: {kind}"
        if failing != self.failing:  # once, and not at every try
            self.failing = failing
            logger.error(
                "the subscription %r cannot %s: %s at %s; trying again until it can",
                name,
                doing,
                kind,
                place_of(error),
            )

    def _recovered(self) -> None:
        if self.failing is not None:
            self.failing = None
            logger.warning("the subscription %r works again", self.lane.spec.name)

    # --- Settler ------------------------------------------------------------------------------------------

    def acknowledge(self, job: Job) -> None:
        self._decide(job, Outcome("ack", job.receipt))

    def bury(self, job: Job, letter: DeadLetter) -> None:
        self._decide(job, Outcome("dead_letter", job.receipt, letter=letter))

    def keeps(self, job: Job, delay: float) -> bool:
        consumer = self._consumer
        if self.releases and self._stopping:
            self._decide(job, _outcome("retry" if self._parks else "release", job, delay))
            return False
        if consumer is None or delay <= consumer.longest_hold:
            self._put(None, _outcome("hold", job))
            return True
        self._decide(job, _outcome("retry", job, delay))
        return False

    @property
    def _parks(self) -> bool:
        return self._adapter.features.delayed and not self.lane.spec.ordered

    def release(self, job: Job) -> bool:
        if self.releases:
            self._decide(job, _outcome("release", job))
        return self.releases

    def release_unstarted(self, jobs: Sequence[Job]) -> None:
        """Gives back what the engine was relieved of already."""
        for job in jobs:
            del self._held[job]
            self._put(None, _outcome("release", job))

    def drop(self, job: Job) -> bool:
        if not self.releases:
            self._decide(job, Outcome("ack", job.receipt))
            return True
        # Not at once: whatever goes wrong would go wrong again without a pause.
        self._decide(job, _outcome("retry" if self._parks else "release", job, _LONGEST_PAUSE))
        return False

    def _decide(self, job: Job, outcome: Outcome) -> None:
        if job in self._held:
            del self._held[job]
            self._put(job, outcome)

    def _put(self, job: Job | None, outcome: Outcome) -> None:
        self._outcomes.append((job, outcome))
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(
                self._settle_all(), name=f"promenade-settle-{self.lane.spec.name}", context=Context()
            )

    async def _settle_all(self) -> None:
        try:
            pause = _FIRST_PAUSE
            while self._outcomes and self._consumer is not None:
                batch, self._outcomes = self._outcomes[:_LARGEST_BATCH], self._outcomes[_LARGEST_BATCH:]
                again = self._settled(batch, await self._results([outcome for _, outcome in batch]))
                if again:
                    self._outcomes = again + self._outcomes
                    if self._giving_up:
                        return
                    await self._sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    pause = _FIRST_PAUSE
        finally:
            self._settling = None

    async def _results(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        assert self._consumer is not None, "nothing is settled before it was received"
        try:
            results = await self._consumer.settle(outcomes)
            if len(results) != len(outcomes):
                raise RuntimeError(f"the adapter told {len(results)} results for {len(outcomes)} outcomes")
        except Exception as error:
            failed = error if isinstance(error, BusError) else BusError(type(error).__name__)
            return [failed for _ in outcomes]
        return results

    def _settled(
        self, batch: Sequence[tuple[Job | None, Outcome]], results: Sequence[BusError | None]
    ) -> list[tuple[Job | None, Outcome]]:
        """Brings to an end what was carried out; returns what is to be tried again."""
        again: list[tuple[Job | None, Outcome]] = []
        for (job, outcome), result in zip(batch, results, strict=True):
            if outcome.action == "hold":
                continue  # a note, which makes a crash less costly; the next one may get through
            if result is not None and not isinstance(result, LeaseLost):
                again.append((job, outcome))
                continue
            if result is not None:
                self.lane.late += 1
                logger.warning(
                    "settled too late: another consumer owns the message (subscription=%s action=%s)",
                    self.lane.spec.name,
                    outcome.action,
                )
            self._unsettled -= 1
            if job is not None:
                self._engine.finish(job)
        if again:
            self._log_unsettled(len(again), next(result for result in results if result is not None))
        self._wake()
        while self._starved:
            self._starved.pop().look_again()
        return again

    def _log_unsettled(self, count: int, error: BusError) -> None:
        logger.error(
            "%d outcomes were not carried out: %s at %s; trying again (subscription=%s)",
            count,
            type(error).__name__,
            place_of(error),
            self.lane.spec.name,
        )

    # --- waiting ------------------------------------------------------------------------------------------

    async def _sleep(self, seconds: float | None) -> None:
        """Until something wakes the pump, or so many seconds of real time are over."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self._sleepers.append(woken)
        timer = None if seconds is None else loop.call_later(seconds, _resolve, woken)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, []
        for woken in sleepers:
            _resolve(woken)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _outcome(action: Literal["retry", "release", "hold"], job: Job, delay: float = 0.0) -> Outcome:
    return Outcome(action, job.receipt, delay, job.attempt, job.history)

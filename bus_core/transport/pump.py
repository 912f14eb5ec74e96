"""A pump carries messages from one consumer of an adapter to its lane, and outcomes back.

It never cancels a call of the consumer, because that would strand a message. It goes on while the bus is
open, even when the consumer raises: the pauses grow, and health shows the error.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextvars import Context
from functools import partial
from typing import Literal

from bus_core.abc import Adapter, Consumer, LeasingConsumer, YieldingConsumer
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.failure_decisions import decide
from bus_core.dispatch.jobs import DeliveryState, Job
from bus_core.dispatch.lane import Lane
from bus_core.dispatch.reports import abandoned
from bus_core.errors import ConsumerDied, UnknownSubscription
from bus_core.events.messages import Attempt, DeadLetter, EventRecord, Outcome, Received
from bus_core.runtime.error_text import place_of
from bus_core.runtime.failures import FIRST_PAUSE, Trouble, ended, fault_of, next_pause, raised_by_itself
from bus_core.runtime.logs import counted, plain_logger
from bus_core.runtime.sleeper import Sleeper, resolve
from bus_core.transport.lease_check import LeaseCheck
from bus_core.transport.prefetch import LARGEST_BATCH, PrefetchBudget, PrefetchQuota
from bus_core.transport.settlement import Settlement

__all__ = ["Pump"]

logger = plain_logger("promenade.bus")

_AFTER_NOTHING = 0.005
_LONGEST_AFTER_NOTHING = 0.1
"""Seconds of real time between two calls of an adapter that returns nothing without waiting."""

_DROPPED = 2.0
"""Seconds until the redelivery of a message whose failure could not be decided."""

_YIELD_TIME = 2.0
"""Seconds of real time that other instances have to become the active one."""

_BETWEEN_YIELDS = 10.0
"""The least seconds of real time between two offers to yield, because nothing is handled meanwhile."""

_STALLED = 30.0
"""Seconds of real time after which health reports that the adapter does not answer."""


class Pump:
    """Implements ``Settler`` for one lane of an adapter outside of the process."""

    def __init__(self, lane: Lane, adapter: Adapter, engine: Engine, budget: PrefetchBudget) -> None:
        self.lane = lane
        self.releases = adapter.features.durable and lane.spec.mode == "group"
        # Ordered messages, and those that the adapter does not keep, wait here for their retry.
        self._parks = self.releases and adapter.features.delayed and not lane.spec.ordered
        self._adapter = adapter
        self._engine = engine
        self._budget = budget
        self._quota = PrefetchQuota(budget, lane, self.wake)
        self._failing = False  # after a failure, it sleeps whatever else changes
        self._after_nothing = _AFTER_NOTHING
        self._trouble = Trouble(f"the subscription {lane.spec.name!r}")
        self._calling_since: float | None = None
        self._consumer: Consumer | None = None
        self._lease_check: LeaseCheck | None = None  # where other consumers may claim held messages
        self._settlement: Settlement | None = None
        self._opened: asyncio.Future[None] | None = None
        self._tried: asyncio.Future[None] | None = None
        self._stopping = False
        self._standby_check: asyncio.Task[None] | None = (
            None  # asks whether an instance waits to become active
        )
        self._offered_at = -math.inf
        self._is_yielding = False  # another instance waits to become the active one
        self._held: dict[Job, None] = {}  # received and undecided, in order
        self._unsettled = 0  # those, and the decided ones that are not carried out
        self._receiving: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._all_decided: asyncio.Future[None] | None = None
        self._sleeper = Sleeper()

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
        """Restarts a pump that ended without ``stop``, because a program may cancel all of its tasks."""
        self._calling_since = None
        ended(task, self.lane.spec.name)
        if self._stopping:
            self._never_opens()
        else:
            # Not at once: a loop that is being closed must keep nothing of it.
            task.get_loop().call_later(FIRST_PAUSE, self._go_on)

    def _go_on(self) -> None:
        if self._stopping:
            self._never_opens()
        else:
            self.start()

    def _never_opens(self) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(
                UnknownSubscription(f"the subscription {self.lane.spec.name!r} was closed before it was open")
            )
            self._opened.exception()  # so that no caller waits for it

    async def opened(self) -> None:
        """Returns when the subscription is open; raises ``UnknownSubscription`` when it was left before."""
        assert self._opened is not None, "start() comes first"
        await asyncio.shield(self._opened)

    @property
    def first_try(self) -> asyncio.Future[None]:
        """Done when the subscription is open, failed to open at first, or was closed."""
        assert self._tried is not None, "start() comes first"
        return self._tried

    def stop(self) -> None:
        """Receives nothing more. The engine settles or releases the held messages."""
        if self._stopping:
            return
        self._stopping = True
        self._quota.leave()
        if self._consumer is not None:
            self._consumer.stop()
        if self._lease_check is not None:
            self._lease_check.stop()
        self._has_tried()
        self._sleeper.wake()

    async def stopped(self) -> None:
        """Returns when no further message can arrive."""
        if self._receiving is not None:
            await asyncio.wait((self._receiving,))

    async def close(self) -> None:
        """Carries out the decided outcomes, and closes the consumer. Call ``stop`` before.

        It goes on when the caller is cancelled, and may be called repeatedly.
        """
        self.begin_to_close()
        assert self._closing is not None, "it has begun"
        await asyncio.wait((self._closing,))

    def begin_to_close(self, closed: Callable[[], object] | None = None) -> None:
        """Begins to close. All held messages must be decided, and the outcomes carried out; then ``closed``
        is called.

        Call it again when the engine has stopped and decides nothing more.
        """
        self._tell_when_all_decided()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(
                self._close(), name=f"promenade-close-{self.lane.spec.name}", context=Context()
            )
        if closed is not None:
            self._closing.add_done_callback(lambda _: closed())

    async def _close(self) -> None:
        await self.stopped()
        if self._standby_check is not None:
            await asyncio.wait((self._standby_check,))
        while self._held and not self._engine.abandoning:
            self._all_decided = asyncio.get_running_loop().create_future()
            await self._all_decided
        if self._settlement is not None:
            await self._settlement.close()
        if self._lease_check is not None:
            await self._lease_check.ended()
        if self._consumer is not None:
            try:
                await self._consumer.close()
            except Exception:
                logger.exception("closing the consumer of %r failed", self.lane.spec.name)

    def _tell_when_all_decided(self) -> None:
        if self._all_decided is not None and (not self._held or self._engine.abandoning):
            resolve(self._all_decided)

    def abort(self) -> None:
        """Cancels all tasks when the process has no more time."""
        for task in (self._receiving, self._closing, self._standby_check):
            if task is not None:
                task.cancel()
        if self._lease_check is not None:
            self._lease_check.abort()
        if self._settlement is not None:
            self._settlement.abort()

    def give_up(self) -> None:
        """Retries failed outcomes once more, then gives them up."""
        if self._settlement is not None:
            self._settlement.give_up()

    @property
    def settling(self) -> Sequence[Job]:
        """The jobs that are decided but not carried out."""
        return () if self._settlement is None else self._settlement.jobs

    def wake(self) -> None:
        """Notes a change that it may wait for: room, or a pause of the lane."""
        if not self._failing:
            self._sleeper.wake()

    @property
    def is_open(self) -> bool:
        """True when it misses no event any more."""
        return self._consumer is not None

    @property
    def problem(self) -> str | None:
        """The failing call and its reason, while a call fails."""
        settlement = self._settlement
        call = "open" if settlement is None else "receive"
        found = self._trouble.text or self._stalled(self._calling_since, call)
        if settlement is not None:
            found = found or settlement.trouble.text or self._stalled(settlement.calling_since, "settle")
        if self._lease_check is not None:
            found = found or self._lease_check.trouble.text
        return found

    def _stalled(self, since: float | None, call: str) -> str | None:
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds < _STALLED:
            return None
        name = self.lane.spec.name
        return f"the subscription {name!r} has been waiting for an answer to {call} for {seconds:.0f} s"

    # --- receiving ----------------------------------------------------------------------------------------

    async def _receive_all(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping:
            failure: BaseException
            try:
                if self._consumer is None:
                    await self._open()
                elif self._is_yielding:
                    await self._yield_to_standby(self._consumer)
                else:
                    limit, again_in = self._limit()
                    if not limit:
                        await self._sleeper.sleep(again_in)
                        continue
                    await self._receive(self._consumer, limit)
            except Exception as error:
                failure = error
            except asyncio.CancelledError as error:
                if not raised_by_itself(error):
                    raise
                failure = error
            else:
                self._trouble.over()
                pause = FIRST_PAUSE
                continue
            self._trouble.failed("be opened" if self._consumer is None else "receive", failure)
            self._has_tried()
            if not self._stopping:
                self._failing = True
                await self._sleeper.sleep(pause)
                self._failing = False
                pause = next_pause(pause)
        if self._consumer is not None and not self.releases:
            await self._receive_rest(self._consumer)

    async def _receive_rest(self, consumer: Consumer) -> None:
        """Accepts late messages that cannot be released, beyond the quota."""
        while True:
            self._calling_since = time.monotonic()
            try:
                batch = await consumer.receive(LARGEST_BATCH)
            except Exception as error:
                self._trouble.failed("receive", error)
                return
            finally:
                self._calling_since = None
            if not batch:
                return
            self._accept_all(batch)

    def _limit(self) -> tuple[int, float | None]:
        if self.lane.paused:
            return 0, None
        failed = 0 if self._settlement is None else self._settlement.failed
        return self._quota.limit(self._unsettled, len(self._held), failed)

    async def _open(self) -> None:
        self._calling_since = time.monotonic()
        try:
            consumer = await self._adapter.open_consumer(self.lane.spec)
        finally:
            self._calling_since = None
        self._settlement = Settlement(self.lane.spec.name, consumer, self._settled)
        self._consumer = consumer
        if isinstance(consumer, LeasingConsumer):
            unstarted = partial(self._engine.unstarted, self.lane)
            self._lease_check = LeaseCheck(self.lane, consumer, unstarted, self._drop_lost)
        if self._stopping:
            consumer.stop()
        elif self._opened is not None:
            resolve(self._opened)
        self._has_tried()

    def _has_tried(self) -> None:
        if self._tried is not None:
            resolve(self._tried)

    async def _receive(self, consumer: Consumer, limit: int) -> None:
        count = 0
        self._quota.taking(limit)
        self._calling_since = began = time.monotonic()
        try:
            batch = [*await consumer.receive(limit)]
            count = len(batch)
        finally:
            self._calling_since = None
            self._quota.took(limit, count)
        self._accept_all(batch)
        if batch or time.monotonic() - began > _AFTER_NOTHING:
            self._after_nothing = _AFTER_NOTHING
        else:  # an adapter that does not wait must not keep the loop busy
            await self._sleeper.sleep(self._after_nothing)
            self._after_nothing = min(self._after_nothing * 2, _LONGEST_AFTER_NOTHING)

    def _accept_all(self, batch: Sequence[Received]) -> None:
        broken: Exception | None = None
        jobs: list[Job] = []
        waiting: dict[Job, float] = {}
        for received in batch:
            try:
                if self._stopping and self.releases:
                    self._put_back(received)
                else:
                    jobs.append(job := self._job_of(received))
                    if received.delay > 0:
                        waiting[job] = received.delay
            except Exception as error:  # it breaks the protocol; that must not strand the others
                broken = error
        self._unsettled += len(jobs)
        self._held.update(dict.fromkeys(jobs))
        self._engine.receive(self.lane, jobs, waiting)
        if self._engine.abandoning:  # they came after everything else was reported
            for job in jobs:
                abandoned((self.lane, job, "queued"))
        if broken is not None:
            raise broken

    def _put_back(self, received: Received) -> None:
        back = Outcome(
            self._returning(received.delay),
            received.receipt,
            received.delay,
            received.attempt,
            received.history,
            waited=received.waited,
        )
        self._open_settlement.put_back(back)
        self._unsettled += 1

    def _job_of(self, received: Received) -> Job:
        message = received.message
        state = DeliveryState(
            history=received.history,
            attempt=received.attempt,
            redelivered=received.redelivered,
            receipt=received.receipt,
            reject_reason=self._reject_reason(received),
            waited=received.waited,
        )
        accepted = received.published_at.timestamp()
        record: EventRecord = (message, message.topic, accepted, message.headers, message.key)
        return Job(self.lane, record, state=state)

    def _reject_reason(self, received: Received) -> str | None:
        """The reason not to handle a message, if there is one."""
        if received.fault is not None:
            return f"cannot be read: {received.fault}"
        # After one death, the message may have been handled then, or only held next to the fatal one. It gets
        # another chance in any case.
        if received.owner_died and _deaths(received) > 1:
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

    # --- the turn of an ordered subscription --------------------------------------------------------------

    def _offer_to_standby(self, delay: float) -> None:
        """Yields to a waiting instance, if there is one: this one cannot decode the next message.

        It tries again after ``delay`` seconds in any case.
        """
        if self._standby_check is None and time.monotonic() - self._offered_at >= max(delay, _BETWEEN_YIELDS):
            self._offered_at = time.monotonic()
            self._standby_check = asyncio.get_running_loop().create_task(
                self._look_for_standby(), name=f"promenade-offer-{self.lane.spec.name}", context=Context()
            )

    async def _look_for_standby(self) -> None:
        consumer = self._consumer
        assert consumer is not None, "nothing is met before it was received"
        waits = False
        try:
            if isinstance(consumer, YieldingConsumer):
                waits = await consumer.has_standby()
        except Exception as error:
            logger.warning(
                "asking for a standby instance failed: %s at %s (subscription=%s)",
                type(error).__name__,
                place_of(error),
                self.lane.spec.name,
            )
        finally:
            self._standby_check = None
        if waits and not self._stopping:
            self._is_yielding = True
            consumer.stop()
            self.wake()

    async def _yield_to_standby(self, consumer: Consumer) -> None:
        """Releases unstarted messages, waits for the others, and opens the subscription again."""
        self.release_unstarted(self._engine.take_unstarted(self.lane))
        if self._held:
            self._all_decided = asyncio.get_running_loop().create_future()
            await self._all_decided
        if self._stopping:
            return
        if self._settlement is not None:
            await self._settlement.close()
        if self._lease_check is not None:
            self._lease_check.stop()
            await self._lease_check.ended()
        if (fault := await fault_of(consumer.close())) is not None:
            self._trouble.failed("yield to a standby instance", fault)
        self._consumer = self._settlement = self._lease_check = self._all_decided = None
        self._is_yielding = False
        again_at = time.monotonic() + _YIELD_TIME
        while not self._stopping and (left := again_at - time.monotonic()) > 0:
            await self._sleeper.sleep(left)

    # --- after a process pause ----------------------------------------------------------------------------

    def check_leases(self) -> None:
        """Confirms held messages before handling, if other consumers may own them by now."""
        if self._held and self._lease_check is not None:
            self._lease_check.start_if_in_doubt()

    def _drop_lost(self, lost: Set[Job]) -> None:
        """Drops the messages that other consumers own."""
        lost = self._held.keys() & lost  # without those released meanwhile
        for job in lost:
            del self._held[job]
        self._unsettled -= len(lost)
        self.lane.late += len(lost)
        self._engine.drop_lost(self.lane, lost)
        if lost:
            logger.warning(
                "%s not started after a pause: taken over by other consumers (subscription=%s)",
                counted(len(lost), "message was", "messages were"),
                self.lane.spec.name,
            )
            self._budget.changed()
            self.wake()
            self._tell_when_all_decided()

    # --- Settler ------------------------------------------------------------------------------------------

    def acknowledge(self, job: Job) -> None:
        job.event = None  # the adapter still has its message, and a batch waits to be settled
        self._request_outcome(job, Outcome("ack", job.receipt))

    def dead_letter(self, job: Job, letter: DeadLetter) -> None:
        self._request_outcome(job, Outcome("dead_letter", job.receipt, letter=letter))

    def holds_locally(self, job: Job, delay: float) -> bool:
        if not self.releases:
            self._open_settlement.note(job, _outcome("hold", job, delay))
            return True
        if self._stopping or self._is_yielding:
            self._request_outcome(job, self._returned(job, delay))
            return False
        assert self._consumer is not None, "nothing is held before it was received"
        if self._parks and (
            delay > self._consumer.longest_hold or self.lane.waiting >= self._quota.most_waiting
        ):
            self._request_outcome(job, _outcome("retry", job, delay))
            return False
        self._open_settlement.note(job, _outcome("hold", job, delay))
        return True

    def begins(self, jobs: Iterable[Job]) -> None:
        if self.releases:
            for job in jobs:
                self._open_settlement.note(job, _outcome("hold", job))

    def returns_to_group(self, job: Job, delay: float) -> bool:
        if self._parks:
            self._request_outcome(job, _outcome("retry", job, delay))
        elif self.releases and self.lane.spec.ordered:
            self._offer_to_standby(delay)
        return self._parks

    def release(self, job: Job) -> bool:
        if self.releases:
            self._request_outcome(job, _outcome("release", job))
        return self.releases

    def release_unstarted(self, jobs: Mapping[Job, float]) -> None:
        """Releases jobs that the engine has already dropped, each with the seconds until it may begin."""
        for job, delay in jobs.items():
            if self._held.pop(job, job) is None:
                self._open_settlement.put(job, self._returned(job, delay), counted=False)
        self._tell_when_all_decided()

    def drop(self, job: Job) -> bool:
        if not self.releases:
            return self._request_outcome(job, Outcome("ack", job.receipt))
        # Not at once: a failure would probably repeat without a pause.
        self._request_outcome(job, _outcome(self._returning(_DROPPED), job, _DROPPED))
        return False

    def _returned(self, job: Job, delay: float) -> Outcome:
        """The outcome of a job that goes back, and may begin in ``delay`` seconds."""
        if job.event is None and job.waited:  # another instance may be able to decode it now
            delay = 0.0
        return _outcome(self._returning(delay), job, delay)

    def _returning(self, delay: float) -> Literal["retry", "release"]:
        return "retry" if self._parks and delay > 0 else "release"

    @property
    def _open_settlement(self) -> Settlement:
        assert self._settlement is not None, "nothing is settled before it was received"
        return self._settlement

    def _request_outcome(self, job: Job, outcome: Outcome) -> bool:
        """Requests an outcome. Returns False when another one was decided before."""
        if self._held.pop(job, job) is job:
            return False
        self._open_settlement.put(job, outcome)
        if self._all_decided is not None:
            self._tell_when_all_decided()
        return True

    def _settled(self, jobs: Sequence[Job | None], late: int) -> None:
        """Ends jobs whose outcome was carried out, or came too late."""
        self._unsettled -= len(jobs)
        self.lane.late += late
        for job in jobs:
            if job is not None:
                self._engine.finish(job)
        self._budget.changed()
        self.wake()


def _deaths(received: Received) -> int:
    """The number of owners that died in a row, since the message was stored or redriven.

    Adapters note a death as ``ConsumerDied``, or in their own words: the latest attempt is one.
    """
    recent = received.history[max(0, len(received.history) - received.attempt + 1) :]
    kind = _kind(recent[-1]) if recent else ""
    return sum(_kind(attempt) == kind for attempt in recent)


def _kind(attempt: Attempt) -> str:
    return attempt.error.partition(":")[0]


def _outcome(action: Literal["retry", "release", "hold"], job: Job, delay: float = 0.0) -> Outcome:
    return Outcome(action, job.receipt, delay, job.attempt, job.history, waited=job.waited)

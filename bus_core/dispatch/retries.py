"""Carries out the decision after a failed attempt: a retry when it is due, or a dead letter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from bus_core.abc import AttemptFailure, EventLoss, Observer
from bus_core.dispatch.codec import Codec
from bus_core.dispatch.failure_decisions import Decision, decide, decide_undecoded
from bus_core.dispatch.jobs import NEVER, Job, JobLane
from bus_core.dispatch.observing import told_without_effect
from bus_core.events.base import Event, without_personal
from bus_core.events.messages import Attempt, DeadLetter
from bus_core.events.primitives import uuid7
from bus_core.runtime.clock import Clock
from bus_core.runtime.error_text import describe_error, place_of, traceback_of
from bus_core.runtime.logs import plain_logger
from bus_core.runtime.schedule import Schedule

__all__ = ["RetryScheduler"]

logger = plain_logger("promenade.bus")


class RetryScheduler:
    """Schedules retries and dead-letters events. ``finish`` is called with each job that is lost."""

    def __init__(
        self,
        *,
        codec: Codec,
        clock: Clock,
        finish: Callable[[Job], None],
        unknown_version_wait: float,
        tracebacks: bool,
    ) -> None:
        self._unknown_version_wait = unknown_version_wait
        self._tracebacks = tracebacks
        self._codec = codec
        self._clock = clock
        self._finish = finish
        self._waiting = Schedule[Job](clock, self._retries_due)
        self._postponed: set[Job] = set()  # those of them that wait without a failure
        self._told_of_failures: list[Callable[[AttemptFailure], None]] = []
        self._told_of_losses: list[Callable[[EventLoss], None]] = []
        self.lost = 0

    @property
    def waiting(self) -> list[Job]:
        """The jobs whose retry is not due yet."""
        return [*self._waiting]

    @property
    def waiting_postponed(self) -> int:
        """The number of waiting jobs that were postponed, and did not fail."""
        return len(self._postponed)

    def oldest(self) -> tuple[float, str | None]:
        """The seconds since the first failure of the job that has waited longest, and its subscription."""
        oldest = min(self._waiting, key=_failing_since, default=None)
        if oldest is None or oldest.state.failing_since is NEVER:
            return 0.0, None
        age = (self._clock.now() - oldest.state.failing_since).total_seconds()
        return max(0.0, age), oldest.lane.spec.name

    def observe(self, observer: Observer) -> None:
        """Adds an observer of failed attempts, called before their consequences, and of losses."""
        if observer.failed is not None:
            self._told_of_failures.append(observer.failed)
        if observer.lost is not None:
            self._told_of_losses.append(observer.lost)

    def stop(self) -> list[Job]:
        """Cancels the retries that are not due yet, and returns their jobs."""
        self._postponed.clear()
        return self._waiting.clear()

    def attempt_failed(self, job: Job, error: BaseException) -> None:
        """Decides and acts. Never raises: a failure that cannot be dealt with counts as a loss."""
        try:
            self._decide(job, error)
        except BaseException as broken:  # for example, a log filter raised: the event has to be accounted for
            if job.lane.settler.drop(job):
                self._lose(job, "its failure could not be dealt with", broken)

    def _decide(self, job: Job, error: BaseException) -> None:
        lane = job.lane
        if job.event is None and job.message is not None:
            with suppress(Exception):  # only failed jobs keep a decoded event
                job.event = self._codec.decode(job.message)
        if job.reject_reason is not None:
            decision = Decision("dead_letter", reason=job.reject_reason)
        elif job.event is None:
            wait = self._unknown_version_wait if lane.settler.releases else None
            decision = decide_undecoded(error, job.waited, wait)
        else:
            decision = decide(error, job.state.attempt, lane.policy_for(job.record[1]), lane.give_up_on)
        if self._told_of_failures:
            self._tell(job, error, decision)
        attempt, action, delay = job.state.attempt, decision.action, decision.delay
        place = place_of(error)
        if action != "postpone" and job.state.reject_reason is None:
            lane.failed_attempts += 1
            text = _error_text(error, job.event)
            if decision.fault is not None:
                text += f"; and the retry policy failed with {_error_text(decision.fault, job.event)}"
            frames = traceback_of(error) if self._tracebacks else ""
            job.note(Attempt(attempt, self._clock.now(), text, place, frames))
        level = _LEVELS[action]
        if logger.isEnabledFor(level):
            _log_failure(job, error, place, decision, level)
        if action == "dead_letter":
            self._dead_letter(job, decision.reason)
            return
        counted = action == "retry"
        job.comes_again(attempt + counted, delay if decision.elsewhere else 0.0)
        if decision.elsewhere and lane.settler.returns_to_group(job, delay):
            return
        if lane.settler.holds_locally(job, delay):
            self.wait(job, delay)
            if not counted:
                self._postponed.add(job)
            lane.attempt_done(job, settled=False)
        elif counted:  # another instance may get it
            lane.retried += 1

    def wait(self, job: Job, delay: float) -> None:
        """Keeps a job until its retry is due."""
        self._waiting.add(job, delay)
        job.lane.waiting += 1

    def _tell(self, job: Job, error: BaseException, decision: Decision) -> None:
        failure = AttemptFailure(
            topic=job.topic,
            subscription=job.lane.spec.name,
            event_id=job.event_id,
            event=job.event,
            attempt=job.attempt,
            error=error,
            action=decision.action,
            delay=decision.delay,
            reason=decision.reason,
        )
        for tell in self._told_of_failures:
            told_without_effect("of failed attempts", tell, failure)

    def _lose(self, job: Job, what: str, error: BaseException) -> None:
        self.lost += 1
        _log_loss(job, what, error)
        if self._told_of_losses:
            loss = EventLoss(
                topic=job.topic,
                subscription=job.lane.spec.name,
                event_id=job.event_id,
                reason=f"{what}: {type(error).__name__}",
            )
            for tell in self._told_of_losses:
                told_without_effect("of losses", tell, loss)

    def _retries_due(self, jobs: Sequence[Job]) -> None:
        by_lane: dict[JobLane, list[Job]] = {}
        for job in jobs:
            by_lane.setdefault(job.lane, []).append(job)
        for lane, its in by_lane.items():
            lane.waiting -= len(its)
            lane.retried += len(its)
            if self._postponed:
                postponed = self._postponed.intersection(its)
                self._postponed -= postponed
                lane.retried -= len(postponed)
            lane.settler.begins(its)
            lane.resume_jobs(its)

    def of_lane(self, lane: JobLane) -> list[Job]:
        """The jobs of a lane whose retry is not due yet."""
        return [job for job in self._waiting if job.lane is lane]

    def take(self, jobs: Iterable[Job]) -> dict[Job, float]:
        """Cancels retries that are not due yet.

        Returns those of the jobs that had one, with the seconds that were left.
        """
        taken = {job: self._waiting.rest(job) for job in jobs if job in self._waiting}
        for job in taken:
            self._waiting.remove(job)
            self._postponed.discard(job)
            job.lane.waiting -= 1
        return taken

    def _dead_letter(self, job: Job, reason: str) -> None:
        lane = job.lane
        lane.dead_lettered += 1
        message = job.message
        if message is None and job.event is not None:
            try:
                message = self._codec.encode_named(job.topic, job.event)
            except BaseException as error:  # a serializer is a plugin that reads the user's values
                text = _error_text(error, job.event)
                reason += f"; and it has no body, because the event cannot be encoded: {text}"
        letter = DeadLetter(
            id=str(uuid7()),
            topic=job.topic,
            subscription=lane.spec.name,
            event_id=_as_uuid(job.event_id),
            key=message.key if message is not None else job.key,
            reason=reason,
            attempts=job.history,
            body=message.body if message is not None else b"",
            headers=job.headers,
            dead_at=self._clock.now(),
        )
        try:
            lane.settler.dead_letter(job, letter)
        except BaseException as broken:
            self._lose(job, "the dead-letter store failed", broken)
            self._finish(job)


_failing_since: Final[Callable[[Job], datetime]] = attrgetter("state.failing_since")
"""In C, because it is called for each waiting job."""


def _error_text(error: BaseException, event: Event[Any] | None) -> str:
    """The text of an error without the personal values of its event."""
    cleaned = None if event is None else partial(without_personal, event=event)
    return describe_error(error, cleaned=cleaned)


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _log_loss(job: Job, what: str, error: BaseException) -> None:
    """Logs the class and the place of an error; see ``place_of``."""
    try:
        logger.critical(
            "lost an event: %s with %s at %s (topic=%s subscription=%s event_id=%s)",
            what,
            type(error).__name__,
            place_of(error),
            job.topic,
            job.lane.spec.name,
            job.event_id,
        )
    except BaseException:  # logging itself failed: the counter shows the loss
        return


_LEVELS: Final = {"retry": logging.WARNING, "postpone": logging.DEBUG, "dead_letter": logging.ERROR}
"""The log level of a decision."""


def _log_failure(job: Job, error: BaseException, place: str, decision: Decision, level: int) -> None:
    """Logs ids, and the class and place of the error. Its text may have personal data."""
    if decision.action == "dead_letter":
        consequence = f"dead-lettered: {decision.reason}"
    else:
        consequence = f"{decision.action} in {decision.delay:g} s"
    logger.log(
        level,
        "attempt %d failed with %s at %s (topic=%s subscription=%s event_id=%s); %s",
        job.attempt,
        type(error).__name__,
        place,
        job.topic,
        job.lane.spec.name,
        job.event_id,
        consequence,
    )

"""A simple model of a bus: who has to be called with what, when, and what is left at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import attrs

from bus_core import TopicPattern

__all__ = ["ATTEMPTS", "DELAYS", "RETRY_DELAY", "Action", "Call", "Letter", "Model", "ModelSubscription"]

Action = Literal["return", "raise", "give up", "retry later", "postpone"]
"""The action of a handler at one call."""

ATTEMPTS = 3
RETRY_DELAY = 1.0
DELAYS: dict[Action, float] = {"raise": RETRY_DELAY, "retry later": 2.0, "postpone": 0.5}

Call = tuple[str, int, int, float]
"""The subscription, the number of the event, the attempt, and the time."""


@attrs.frozen
class Letter:
    """A dead letter: whose, of which event, and the numbers of the attempts that failed."""

    subscription: str
    number: int
    history: tuple[int, ...]


@attrs.define(eq=False)
class Job:
    """One event on its way to one subscription."""

    number: int
    key: int
    pending: object
    ready: float
    attempt: int = 1
    history: tuple[int, ...] = ()


@attrs.define(eq=False)
class ModelSubscription:
    """One subscription, and what it has not settled, in the order in which it was accepted."""

    name: str
    pattern: TopicPattern = attrs.field(repr=lambda pattern: pattern.text)
    ordered: bool
    active: bool = True
    paused: bool = False
    jobs: list[Job] = attrs.field(factory=list, repr=False)

    def next_job(self, now: float) -> Job | None:
        """The job whose next attempt is the first one that is due until ``now``; None when none is."""
        if self.paused:
            return None
        busy: set[int] = set()
        free: list[Job] = []
        for job in self.jobs:
            if not (self.ordered and job.key in busy):
                free.append(job)
            busy.add(job.key)
        return min((job for job in free if job.ready <= now), key=lambda job: job.ready, default=None)


class Model:
    """The expected state. ``scripts`` tells for each event what handlers do with it, call by call."""

    def __init__(self) -> None:
        self.now = 0.0
        self.subscriptions: list[ModelSubscription] = []
        self.scripts: dict[int, list[Action]] = {}
        self.calls: list[Call] = []
        self.letters: list[Letter] = []
        self.ended: Counter[tuple[str, str]] = Counter()  # by subscription and way

    @property
    def active(self) -> list[ModelSubscription]:
        """Those that get events."""
        return [each for each in self.subscriptions if each.active]

    @property
    def unsettled(self) -> int:
        """The number of events that some subscription has not settled."""
        return len({id(job.pending) for each in self.subscriptions for job in each.jobs})

    def action(self, subscription: str, number: int) -> Action:
        """The action of the handler at its next call with an event."""
        before = sum(call[:2] == (subscription, number) for call in self.calls)
        script = self.scripts[number]
        return script[before] if before < len(script) else "return"

    def publish(self, topic: str, number: int, key: int, script: Iterable[Action]) -> None:
        self.scripts[number] = [*script]
        pending = object()
        for each in self.active:
            if each.pattern.matches(topic):
                each.jobs.append(Job(number, key, pending, self.now))
        self.run()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.run()

    def run(self) -> None:
        """Makes every attempt that is due by now, at its time."""
        for each in self.subscriptions:
            while (job := each.next_job(self.now)) is not None:
                self._attempt(each, job)

    def _attempt(self, subscription: ModelSubscription, job: Job) -> None:
        action = self.action(subscription.name, job.number)
        self.calls.append((subscription.name, job.number, job.attempt, job.ready))
        if action != "return" and action != "postpone":
            job.history += (job.attempt,)
            self.ended[subscription.name, "failed"] += 1
        if action == "return":
            self._end(subscription, job, "handled")
        elif action == "give up" or (action != "postpone" and job.attempt >= ATTEMPTS):
            self.letters.append(Letter(subscription.name, job.number, job.history))
            self._end(subscription, job, "dead-lettered")
        else:
            job.attempt += action != "postpone"
            job.ready += DELAYS[action]

    def _end(self, subscription: ModelSubscription, job: Job, way: str) -> None:
        subscription.jobs.remove(job)
        self.ended[subscription.name, way] += 1
        for other in subscription.jobs:
            if subscription.ordered and other.key == job.key:
                other.ready = max(other.ready, job.ready)

    def resume(self, subscription: ModelSubscription) -> None:
        subscription.paused = False
        for job in subscription.jobs:
            job.ready = max(job.ready, self.now)
        self.run()

    def unsubscribe(self, subscription: ModelSubscription) -> None:
        subscription.active = False
        self.resume(subscription)

    def redrive(self, letter: Letter, key: int) -> None:
        self.letters.remove(letter)
        (subscription,) = (each for each in self.subscriptions if each.name == letter.subscription)
        subscription.jobs.append(Job(letter.number, key, object(), self.now, history=letter.history))
        self.run()

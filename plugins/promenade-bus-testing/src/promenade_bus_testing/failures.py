"""Failed attempts, the test's expectations, and the error for unexpected failures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from bus_core import Bus, DrainReport, Topic, TopicPattern
from bus_core.runtime import counted
from promenade_bus_testing.steps import Failed, Step, flows_of, id_of

__all__ = ["Failures", "UnseenFailures"]

_HOW = "declare it with failures.expect(...), or mark the test @pytest.mark.promenade(allow_failures=True)"


class Observed(Protocol):
    """The parts of an observation that ``Failures`` needs."""

    @property
    def bus(self) -> Bus:
        """The observed bus."""
        ...

    @property
    def steps(self) -> Sequence[Step]:
        """Every step so far, in order."""
        ...

    def uninjected(self) -> Mapping[str, int]:
        """Returns the number of ordered failures that have not happened, by subscription."""
        ...


class UnseenFailures(AssertionError):
    """Raised when an attempt failed, or an event was lost or abandoned, and the test did not expect it."""


@attrs.define
class _Expectation:
    error: type[BaseException] | tuple[type[BaseException], ...]
    subscription: str | None
    topic: TopicPattern | None
    match: str | None
    times: int | None
    met: int = 0

    def covers(self, failed: Failed) -> bool:
        return (
            isinstance(failed.error, self.error)
            and self.subscription in (None, failed.subscription)
            and (self.topic is None or self.topic.matches(failed.topic))
            and (self.match is None or re.search(self.match, str(failed.error)) is not None)
        )

    def __str__(self) -> str:
        classes = self.error if isinstance(self.error, tuple) else (self.error,)
        text = " or ".join(each.__name__ for each in classes)
        if self.match is not None:
            text += f" matching {self.match!r}"
        if self.subscription is not None:
            text += f" of {self.subscription}"
        if self.topic is not None:
            text += f" on {self.topic.text}"
        return text


class Failures:
    """The failures on a bus under test.

    An unexpected failed attempt, lost event or abandoned event makes the test fail. Everything that counts as
    an attempt is included, so ``Postpone`` is not.
    """

    def __init__(self, observation: Observed) -> None:
        self._observation = observation
        self._expectations: list[_Expectation] = []
        self._allowed = False

    @property
    def all(self) -> list[Failed]:
        """Every failed attempt so far, expected or not, in order."""
        return [
            step
            for step in self._observation.steps
            if isinstance(step, Failed) and step.failure.action != "postpone"
        ]

    @property
    def unexpected(self) -> list[Failed]:
        """The failures for which ``check`` would raise."""
        return [] if self._allowed else self._unexpected()

    def expect(
        self,
        error: type[BaseException] | tuple[type[BaseException], ...] = BaseException,
        *,
        subscription: str | None = None,
        topic: Topic[Any] | str | None = None,
        match: str | None = None,
        times: int | None = None,
    ) -> None:
        """Declares that attempts fail with ``error``, before or after they do.

        ``subscription``, ``topic`` (or a pattern) and ``match`` (a pattern in the text of the error) restrict
        it. ``times`` is the number of attempts; without it, any number but zero. An expected failure that
        does not happen makes the test fail, too.
        """
        pattern = None if topic is None else TopicPattern(topic.name if isinstance(topic, Topic) else topic)
        self._expectations.append(_Expectation(error, subscription, pattern, match, times))

    def allow(self) -> None:
        """Lets the test pass whatever fails, or is lost or abandoned."""
        self._allowed = True

    def _unexpected(self) -> list[Failed]:
        """Assigns each failure to the first expectation that it matches, and returns the others."""
        for expectation in self._expectations:
            expectation.met = 0
        rest: list[Failed] = []
        for failed in self.all:
            if failed.injected:
                continue
            fitting = [each for each in self._expectations if each.covers(failed)]
            open_ones = [each for each in fitting if each.times is None or each.met < each.times]
            if fitting:
                (open_ones or fitting)[0].met += 1
            if not open_ones:
                rest.append(failed)
        return rest

    def check(self, report: DrainReport | None = None) -> None:
        """Raises ``UnseenFailures`` with the history of each affected event.

        ``report`` is the drain report of the closed bus.
        """
        if self._allowed:
            return
        problems = [*self._failed(), *self._left_over(report)]
        if problems:
            raise UnseenFailures("\n\n".join(problems))

    def _failed(self) -> list[str]:
        unexpected = self._unexpected()
        problems = []
        if unexpected:
            many = "an attempt" if len(unexpected) == 1 else f"{len(unexpected)} attempts"
            flows = flows_of(dict.fromkeys(map(id_of, unexpected)), self._observation.steps)
            problems.append(f"{many} failed that the test does not expect; if it does, {_HOW}\n\n{flows}")
        for each in self._expectations:
            if each.times is not None and each.met < each.times:
                problems.append(f"expected {each.times} attempts to fail with {each}, {each.met} did")
            elif each.met == 0:
                problems.append(f"expected an attempt to fail with {each}, none did")
        known = ", ".join(subscription.name for subscription in self._observation.bus.subscriptions) or "none"
        for name, count in self._observation.uninjected().items():
            problems.append(
                f"fail_next: {count} of the failures ordered for {name!r} did not happen, because it "
                f"made no further attempt (subscriptions: {known})"
            )
        return problems

    def _left_over(self, report: DrainReport | None) -> list[str]:
        problems = []
        lost = self._observation.bus.state().lost
        if lost:
            problems.append(f"events or dead letters lost: {lost}; the log of 'promenade.bus' names them")
        if report is not None and report.abandoned:
            lines = [
                f"  {item.subscription}: {item.topic} {item.event_id} was {item.state}"
                for item in report.abandoned
            ]
            flows = flows_of(
                dict.fromkeys(item.event_id for item in report.abandoned), self._observation.steps
            )
            problems.append(
                "\n".join([f"{counted(len(lines), 'event')} abandoned when the bus was closed:", *lines])
                + f"\n\n{flows}"
            )
        return problems

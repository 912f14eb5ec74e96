"""Checks besides the account. Each yields sentences about violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import attrs

from chaos.findings import Findings


@attrs.frozen
class Happened:
    """A fault happened at least so often, as it was noted."""

    what: str
    times: int = 1

    def __call__(self, findings: Findings) -> Iterator[str]:
        if findings.notes[self.what] < self.times:
            yield f"{self.what} happened {findings.notes[self.what]} times, not {self.times}"


def attempts_are_first(findings: Findings) -> Iterator[str]:
    """Every event was begun once, as its first attempt: nothing was counted that was only given back."""
    begun = Counter((record.subscription, record.event_id) for record in findings.records("begun"))
    later = sum(record.count > 1 for record in findings.records("begun"))
    repeated = sum(count > 1 for count in begun.values())
    if later or repeated:
        yield f"{later} attempts were not the first, {repeated} events were begun more than once"


def begun_once(findings: Findings) -> Iterator[str]:
    """Every event was begun once, whoever it was handed to before."""
    begun = Counter((record.subscription, record.event_id) for record in findings.records("begun"))
    repeated = sum(count > 1 for count in begun.values())
    if repeated:
        yield f"{repeated} events were begun more than once"


@attrs.frozen
class EndsWithin:
    """Processes that were asked to end did so within some seconds."""

    seconds: float

    def __call__(self, findings: Findings) -> Iterator[str]:
        for end in findings.exits:
            if not end.killed and end.seconds > self.seconds:
                yield f"{end.name} took {end.seconds:.2f} s to close, more than {self.seconds:g} s"


def late_is_counted(findings: Findings) -> Iterator[str]:
    """A process that paused longer than its lease settled too late, and that was counted."""
    if not findings.last("late"):
        yield "no process counted an outcome that came too late"


def losses_are_exact(findings: Findings) -> Iterator[str]:
    """Some events were lost, and the counts of the processes, and that on the server, are that number."""
    lost = findings.account.total("lost")
    if not lost:
        yield "nothing was lost: nothing is shown"
    counts = {"the processes": findings.account.counted_lost, "the server": findings.notes["lost_on_server"]}
    for who, counted in counts.items():
        if counted != lost:
            yield f"{who} counted {counted} events as lost, and {lost} were"


def nothing_was_lost(findings: Findings) -> Iterator[str]:
    """No event was lost, and none was counted as lost."""
    lost, counted = findings.account.total("lost"), findings.account.counted_lost
    if lost or counted:
        yield f"{lost} events were lost, and {counted} counted as lost"


@attrs.frozen
class Told:
    """Health of some process said so at some time, in words that hold ``text``."""

    text: str
    kind: str = "consumer"

    def __call__(self, findings: Findings) -> Iterator[str]:
        if not any(self.text in summary for summary in findings.summaries(self.kind)):
            told = sorted({*findings.summaries(self.kind)})[:5]
            yield f"health of no {self.kind} said {self.text!r}; it said {told}"


def missed_is_counted(findings: Findings) -> Iterator[str]:
    """Each process counted exactly what did not come to it, and something did not."""
    lost, counted = findings.account.total("lost"), findings.account.counted_lost
    if counted != lost:
        yield f"the processes counted {counted} events as missed, and {lost} were"
    if not lost:
        yield "nothing was missed: nothing is shown"


@attrs.frozen
class Logged:
    """A process of a kind logged a line that holds ``text``."""

    text: str
    kind: str = "consumer"

    def __call__(self, findings: Findings) -> Iterator[str]:
        if not any(self.text in log for name, log in findings.logs.items() if name.startswith(self.kind)):
            yield f"no {self.kind} logged {self.text!r}"


@attrs.frozen
class QuietLogs:
    """No process logs more than so many errors within a second, besides one for each attempt that failed."""

    errors_per_second: int = 5

    def __call__(self, findings: Findings) -> Iterator[str]:
        for name, log in findings.logs.items():
            seconds: Counter[int] = Counter()
            for line in log.splitlines():
                at, _, rest = line.partition(" ")
                if rest.startswith(("ERROR ", "CRITICAL ")) and " attempt " not in rest:
                    seconds[int(float(at))] += 1
            if seconds and max(seconds.values()) > self.errors_per_second:
                yield f"{name} logged {max(seconds.values())} errors in one second"


@attrs.frozen
class RecoversWithin:
    """After the last fault was over an event was handled within some seconds."""

    seconds: float

    def __call__(self, findings: Findings) -> Iterator[str]:
        recovery = findings.account.recovery
        if recovery is None or recovery > self.seconds:
            yield f"the first event after the fault came after {recovery} s, not within {self.seconds:g} s"


def refused_some(findings: Findings) -> Iterator[str]:
    """Publishers were told that something does not work."""
    if not any(findings.records("refused")):
        yield "no publisher was told of the fault"


@attrs.frozen
class Letters:
    """For each cause that a letter may have, the least number of them; nothing else is dead-lettered.

    A cause is found in the reason or the last error of the letter.
    """

    causes: Sequence[str]

    def __call__(self, findings: Findings) -> Iterator[str]:
        found: Counter[str] = Counter()
        for letter in findings.letters:
            text = f"{letter.reason} {letter.attempts[-1].error if letter.attempts else ''}"
            cause = next((cause for cause in self.causes if cause in text), None)
            if cause is None:
                yield f"a dead letter has no known cause: {text[:200]}"
                return
            found[cause] += 1
        missing = [cause for cause in self.causes if not found[cause]]
        if missing:
            yield f"no dead letter says {missing}; there are {dict(found)}"
        twice = [key for key, count in self._ids(findings).items() if count > 1]
        if twice:
            yield f"{len(twice)} events have more than one dead letter"

    @staticmethod
    def _ids(findings: Findings) -> Counter[tuple[str, str]]:
        return Counter((letter.subscription, str(letter.event_id)) for letter in findings.letters)


@attrs.frozen
class NoteAtMost:
    """A figure that was noted is not above a bound."""

    what: str
    bound: int

    def __call__(self, findings: Findings) -> Iterator[str]:
        if findings.notes[self.what] > self.bound:
            yield f"{self.what} is {findings.notes[self.what]}, more than {self.bound}"


@attrs.frozen(kw_only=True)
class Flat:
    """Memory, descriptors and tasks of processes that live on do not grow.

    A line is laid through the samples of each, without the first ``warm`` part of them. ``memory`` bounds
    its rise over the rest of the run, in bytes; ``descriptors`` and ``tasks`` are numbers. The tasks of a
    publisher are the publishes under way, and tell only how fast the server is: they have no bound.
    """

    memory: float
    descriptors: float = 8
    tasks: float = 20
    warm: float = 0.4

    def __call__(self, findings: Findings) -> Iterator[str]:
        for name, rises in self.rises(findings).items():
            for what, rise in rises.items():
                bound = getattr(self, what)
                if what == "tasks" and name.startswith("producer"):
                    continue
                if rise > bound:
                    yield f"{what} of {name} rose by {rise:,.0f}, more than {bound:,.0f}"

    def rises(self, findings: Findings) -> dict[str, dict[str, float]]:
        """By how much each of the three rose in each process that has enough samples."""
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for name, samples in findings.samples.items():
            looks = [sample for sample in samples if "memory" in sample]
            looks = looks[int(len(looks) * self.warm) :]
            if len(looks) < 8:
                continue
            for what in ("memory", "descriptors", "tasks"):
                found[name][what] = _rise([(look["at"], look[what]) for look in looks])
        return found


def _rise(points: Sequence[tuple[float, float]]) -> float:
    """The rise of a line through the points from the first to the last one (Theil-Sen on halves)."""
    half = len(points) // 2
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in zip(points[:half], points[-half:], strict=True)
    )
    return slopes[len(slopes) // 2] * (points[-1][0] - points[0][0])

"""What went wrong so far, for health and logs: lost events, lost groups, lost data.

Error lines are bounded: five a second. Scripts count what groups lose on the server, in the step that finds
it: a reply may get lost. What only this process can see is counted here, and the upkeep adds it to the counts
on the server, where every instance can read them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from bus_core.runtime import Trouble, plain_logger, printable

__all__ = ["Losses", "UnreportedLosses"]

logger = plain_logger("promenade.bus.redis")

_QUIET: Final = 1.0
"""Seconds between two log lines of one kind about one thing."""

_LINES: Final = 5
"""Lines in a second."""

_MOST_NAMES: Final = 5


class UnreportedLosses:
    """Losses that no script can see, on their way to the counts on the server.

    What may have arrived is told again under the same number: it counts once. Of each topic one number is
    under way at a time.
    """

    def __init__(self) -> None:
        self._found: dict[str, Counter[str]] = {}
        self._under_way: dict[str, Counter[str]] = {}
        self._numbers: Counter[str] = Counter()

    def add(self, count: int, topic: str, group: str) -> None:
        """Something was lost."""
        self._found.setdefault(topic, Counter())[f"{topic} {group}"] += count

    def batches(self) -> Sequence[tuple[str, int, Mapping[str, int]]]:
        """What is to be told: of each topic a number, and the names and counts that go with it."""
        for topic in self._found.keys() - self._under_way.keys():
            self._under_way[topic] = self._found.pop(topic)
            self._numbers[topic] += 1
        return [(topic, self._numbers[topic], counts) for topic, counts in self._under_way.items()]

    def arrived(self, topic: str) -> None:
        """It is among the counts on the server."""
        del self._under_way[topic]


class Losses:
    """Counts. ``lost`` are events and dead letters; ``reset_groups`` are groups that had to be made again.

    ``problems`` are asked what the parts of the adapter cannot do at the moment. ``ended_epochs`` is how
    often the data of the server were gone, and ``last_loss`` when that was, on the monotonic clock.
    ``unsaid`` are log lines that were not written, because there were too many. ``before`` are the counts on
    the server when this instance started.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.unsaid = 0
        self.ended_epochs = 0
        self.last_loss: float | None = None
        self.reset_groups: Counter[str] = Counter()
        self.dropped_by_cap: Counter[str] = Counter()
        self.foreign_trims: Counter[str] = Counter()
        self.forgotten_events: Counter[str] = Counter()
        self.problems: dict[str, Callable[[], str | None]] = {}
        self.strange_topics: set[tuple[str, str]] = set()  # with the group that was to use them
        self.strange_retries: Counter[str] = Counter()
        self.unreported = UnreportedLosses()
        self.before: Mapping[str, int] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._lines: deque[float] = deque()

    def trouble(self, subject: str) -> Trouble:
        """Keeps what a part of the adapter cannot do at the moment, for the log and for health."""
        trouble = Trouble(subject)
        self.problems[subject] = lambda: trouble.text
        return trouble

    # --- events -------------------------------------------------------------------------------------------

    def lose(self, count: int, topic: str, group: str) -> None:
        """Entries that are pending, and gone from their stream: somebody trimmed or deleted them."""
        if not count:
            return
        self.lost += count
        if self._has_room():
            logger.error(
                "lost %d events: they were deleted before they were handled (topic=%s group=%s)",
                count,
                topic,
                group,
            )

    def lose_unread(self, count: int, topic: str, group: str) -> None:
        """Entries that were removed before a group had read them, or while they were pending."""
        if not count:
            return
        self.lost += count
        if self._has_room():
            logger.error(
                "lost %d events: they were trimmed before they were read (topic=%s group=%s)",
                count,
                topic,
                group,
            )

    def miss(self, count: int, topic: str, group: str) -> None:
        """Entries that were trimmed, or dropped, before a broadcast subscription had read them."""
        self._add(count, topic, group)
        if self._has_room():
            logger.error(
                "missed %d events: they were trimmed before they were read (topic=%s subscription=%s)",
                count,
                topic,
                group,
            )

    def dropped(self, count: int, topic: str) -> None:
        """Entries that gave way because of ``max_length``, whether or not somebody had read them."""
        self.dropped_by_cap[topic] += count
        if self._may_say("dropped", topic):
            logger.warning(
                "dropped %d events: the topic is longer than retention.max_length (topic=%s)", count, topic
            )

    def foreign(self, count: int, topic: str) -> None:
        """Entries that somebody else has removed, whether or not somebody had read them."""
        self.foreign_trims[topic] += count
        if self._may_say("foreign", topic):
            logger.warning("somebody else has removed %d events (topic=%s)", count, topic)

    def forgotten(self, count: int, topic: str, *, is_all: bool) -> None:
        """Entries that the server had stored, and does not have any more, whether or not they were handled.

        ``is_all``: it is known that there are no more of them that this instance has published.
        """
        self.forgotten_events[topic] += count
        self.last_loss = time.monotonic()
        self._add(count, topic, "*")
        if self._has_room():
            logger.error(
                "the server does not have %s%d events any more that it had stored; those that nobody had "
                "handled are lost (topic=%s)",
                "" if is_all else "at least ",
                count,
                topic,
            )

    def _add(self, count: int, topic: str, group: str) -> None:
        self.lost += count
        self.unreported.add(count, topic, group)

    # --- topics of patterns -------------------------------------------------------------------------------

    def left_out(self, topic: str, group: str) -> None:
        """Somebody uses a key of a topic for something else: a group, or retention, goes on without it."""
        self.strange_topics.add((topic, group))
        if self._may_say("left out", topic):
            logger.error(
                "a topic is left out: somebody uses a key of it for something else (topic=%s group=%s)",
                topic,
                group,
            )

    def strange(self, count: int, topic: str, group: str) -> None:
        """Somebody else has put something among the parked retries of a group: it becomes a dead letter."""
        if not count:
            return
        self.strange_retries[f"{group} on {topic}"] += count
        if self._may_say("strange", f"{topic} {group}"):
            logger.error(
                "somebody else has parked %d retries that are none (topic=%s group=%s)", count, topic, group
            )

    def understood(self, topic: str, group: str) -> None:
        """A topic can be used."""
        self.strange_topics.discard((topic, group))

    # --- groups and data ----------------------------------------------------------------------------------

    def reset(self, topic: str, group: str) -> None:
        """A group was gone, and was made again at the beginning of what there is."""
        self.reset_groups[f"{group} on {topic}"] += 1
        self.last_loss = time.monotonic()
        if self._may_say("reset", f"{topic} {group}") and self._has_room():
            logger.error(
                "the consumer group was gone and was made again; it begins with what is there"
                " (topic=%s group=%s)",
                topic,
                group,
            )

    def epoch_ended(self) -> None:
        """Everything that was on the server is gone."""
        self.ended_epochs += 1
        self.last_loss = time.monotonic()
        logger.error(
            "the server has lost its data: what was not handled is lost, and so are dead letters; "
            "groups are made again"
        )

    @property
    def degraded(self) -> str | None:
        """For health."""
        problems: list[str] = []
        if self.ended_epochs:
            problems.append(
                f"the server has lost its data, {self.ended_epochs} times since the start: what was not "
                "handled then is lost, and so are dead letters; see what happened there, and check its "
                "persistence"
            )
        elif self.reset_groups:
            problems.append(
                f"consumer groups were lost on the server, and made again: {_names(self.reset_groups)}; what "
                "they had not handled may be lost with their streams"
            )
        if self.forgotten_events:
            problems.append(
                f"the server came back without {sum(self.forgotten_events.values()):,} events of "
                f"{_names(self.forgotten_events)} that it had stored; those that nobody had handled are "
                "lost; check its persistence, or see 'durability'"
            )
        if self.foreign_trims:
            problems.append(
                f"somebody else removes events from {_names(self.foreign_trims)} "
                f"({sum(self.foreign_trims.values()):,} so far): leave trimming to the bus"
            )
        if self.strange_topics:
            problems.append(
                f"somebody uses keys of {_names({topic for topic, _ in self.strange_topics})} for something "
                "else: what needs them is refused, and everything else goes on without these topics"
            )
        if self.strange_retries:
            problems.append(
                f"somebody else has put something among the retries of {_names(self.strange_retries)} "
                f"({sum(self.strange_retries.values()):,} so far), which is dead-lettered as it is"
            )
        problems += [text for ask in self.problems.values() if (text := ask()) is not None]
        return "; ".join(problems) or None

    # --- lines --------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether another error line may be written now; counts it as written, or as not."""
        now = time.monotonic()
        while self._lines and now - self._lines[0] >= 1.0:
            self._lines.popleft()
        if len(self._lines) >= _LINES:
            self.unsaid += 1
            return False
        self._lines.append(now)
        return True

    def _may_say(self, kind: str, about: str) -> bool:
        now = time.monotonic()
        if now - self._said.get((kind, about), -_QUIET) < _QUIET:
            return False
        self._said[kind, about] = now
        return True


def _names(found: Collection[str]) -> str:
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return ", ".join(map(printable, sorted(found)[:_MOST_NAMES])) + more

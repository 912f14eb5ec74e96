"""Losses, for health and logs: lost events, lost groups, lost data.

Error lines are limited to five a second. Scripts count the losses of groups on the server, in the step that
finds them, because a reply may be lost. Losses that only this process can see are counted here, and the
upkeep adds them to the counts on the server, which every instance can read.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from bus_core.runtime import Trouble, counted, plain_logger, printable

__all__ = ["Losses", "UnreportedLosses"]

logger = plain_logger("promenade.bus.redis")

_QUIET: Final = 1.0
"""Seconds between two log lines of one kind about the same thing."""

_LINES: Final = 5
"""The maximum number of lines a second."""

_MOST_NAMES: Final = 5


class UnreportedLosses:
    """Losses that no script can see, to be added to the counts on the server.

    A batch that may have arrived is sent again with the same number, and counts once. For each topic one
    number is under way at a time.
    """

    def __init__(self) -> None:
        self._found: dict[str, Counter[str]] = {}
        self._under_way: dict[str, Counter[str]] = {}
        self._numbers: Counter[str] = Counter()

    def add(self, count: int, topic: str, group: str) -> None:
        """Counts a loss."""
        self._found.setdefault(topic, Counter())[f"{topic} {group}"] += count

    def batches(self) -> Sequence[tuple[str, int, Mapping[str, int]]]:
        """Returns for each topic a number, and the names and counts to report."""
        for topic in self._found.keys() - self._under_way.keys():
            self._under_way[topic] = self._found.pop(topic)
            self._numbers[topic] += 1
        return [(topic, self._numbers[topic], counts) for topic, counts in self._under_way.items()]

    def arrived(self, topic: str) -> None:
        """Records that the batch of a topic is in the server's counts."""
        del self._under_way[topic]


class Losses:
    """The counters of losses. ``lost`` counts events and dead letters, and ``reset_groups`` recreated groups.

    ``problems`` are the current problems of the adapter's parts. ``ended_epochs`` is the number of times that
    the server lost its data, and ``last_loss`` the last time, on the monotonic clock. ``unsaid`` counts
    suppressed log lines. ``before`` has the counts on the server when this instance started.
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
        self.strange_topics: set[tuple[str, str]] = set()  # with their groups
        self.strange_retries: Counter[str] = Counter()
        self.unreported = UnreportedLosses()
        self.before: Mapping[str, int] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._lines: deque[float] = deque()

    def trouble(self, subject: str) -> Trouble:
        """Records the problems of a part of the adapter, for the log and for health."""
        trouble = Trouble(subject)
        self.problems[subject] = lambda: trouble.text
        return trouble

    # --- events -------------------------------------------------------------------------------------------

    def lose(self, count: int, topic: str, group: str) -> None:
        """Counts pending entries that were trimmed or deleted by a foreign program."""
        if not count:
            return
        self.lost += count
        if self._has_room():
            logger.error(
                "lost %s: deleted before being handled (topic=%s group=%s)",
                counted(count, "event"),
                topic,
                group,
            )

    def lose_unread(self, count: int, topic: str, group: str) -> None:
        """Counts entries that were removed before a group read or settled them."""
        if not count:
            return
        self.lost += count
        if self._has_room():
            logger.error(
                "lost %s: trimmed before being read (topic=%s group=%s)",
                counted(count, "event"),
                topic,
                group,
            )

    def miss(self, count: int, topic: str, group: str) -> None:
        """Counts entries that were trimmed or dropped before a broadcast subscription read them."""
        self._add(count, topic, group)
        if self._has_room():
            logger.error(
                "missed %s: trimmed before being read (topic=%s subscription=%s)",
                counted(count, "event"),
                topic,
                group,
            )

    def dropped(self, count: int, topic: str) -> None:
        """Counts entries removed because of ``max_length``, read or not."""
        self.dropped_by_cap[topic] += count
        if self._may_say("dropped", topic):
            logger.warning(
                "dropped %s: the topic is longer than retention.max_length (topic=%s)",
                counted(count, "event"),
                topic,
            )

    def foreign(self, count: int, topic: str) -> None:
        """Counts entries that a foreign program removed, read or not."""
        self.foreign_trims[topic] += count
        if self._may_say("foreign", topic):
            logger.warning("a foreign program has removed %s (topic=%s)", counted(count, "event"), topic)

    def forgotten(self, count: int, topic: str, *, is_all: bool) -> None:
        """Counts stored entries that the server has lost, handled or not.

        ``is_all``: this instance has published no further lost entries.
        """
        self.forgotten_events[topic] += count
        self.last_loss = time.monotonic()
        self._add(count, topic, "*")
        if self._has_room():
            logger.error(
                "the server no longer has %s%s that it had stored; unhandled ones are lost (topic=%s)",
                "" if is_all else "at least ",
                counted(count, "event"),
                topic,
            )

    def _add(self, count: int, topic: str, group: str) -> None:
        self.lost += count
        self.unreported.add(count, topic, group)

    # --- topics of patterns -------------------------------------------------------------------------------

    def left_out(self, topic: str, group: str) -> None:
        """Records that a group, or retention, skips a topic because a key of it has foreign data."""
        self.strange_topics.add((topic, group))
        if self._may_say("left out", topic):
            logger.error(
                "skipping a topic: a key of it has foreign data (topic=%s group=%s)",
                topic,
                group,
            )

    def strange(self, count: int, topic: str, group: str) -> None:
        """Counts foreign data among a group's parked retries; it becomes a dead letter."""
        if not count:
            return
        self.strange_retries[f"{group} on {topic}"] += count
        if self._may_say("strange", f"{topic} {group}"):
            logger.error(
                "found %s among the parked retries; dead-lettered unchanged (topic=%s group=%s)",
                counted(count, "foreign entry", "foreign entries"),
                topic,
                group,
            )

    def understood(self, topic: str, group: str) -> None:
        """Records that a topic can be used again."""
        self.strange_topics.discard((topic, group))

    # --- groups and data ----------------------------------------------------------------------------------

    def reset(self, topic: str, group: str) -> None:
        """Records that a missing group was recreated at the beginning of the stream."""
        self.reset_groups[f"{group} on {topic}"] += 1
        self.last_loss = time.monotonic()
        if self._may_say("reset", f"{topic} {group}") and self._has_room():
            logger.error(
                "the consumer group was missing and was recreated at the beginning of the stream"
                " (topic=%s group=%s)",
                topic,
                group,
            )

    def epoch_ended(self) -> None:
        """Records that all data on the server are gone."""
        self.ended_epochs += 1
        self.last_loss = time.monotonic()
        logger.error(
            "the server has lost its data: unhandled events and dead letters are lost; recreating the groups"
        )

    @property
    def degraded(self) -> str | None:
        """A sentence for health, or None."""
        problems: list[str] = []
        if self.ended_epochs:
            problems.append(
                f"the server has lost its data, {counted(self.ended_epochs, 'time')} since the start: "
                "unhandled events and dead letters are lost; find out what happened there, and check its "
                "persistence"
            )
        elif self.reset_groups:
            problems.append(
                f"consumer groups were lost on the server and recreated: {_names(self.reset_groups)}; their "
                "unhandled events may be lost with their streams"
            )
        if self.forgotten_events:
            problems.append(
                f"the server came back without {counted(sum(self.forgotten_events.values()), 'event')} of "
                f"{_names(self.forgotten_events)} that it had stored; unhandled ones are "
                "lost; check its persistence, or see 'durability'"
            )
        if self.foreign_trims:
            problems.append(
                f"a foreign program removes events from {_names(self.foreign_trims)} "
                f"({sum(self.foreign_trims.values()):,} so far): leave trimming to the bus"
            )
        if self.strange_topics:
            problems.append(
                f"keys of {_names({topic for topic, _ in self.strange_topics})} have foreign data: these "
                "topics are skipped, and everything else goes on"
            )
        if self.strange_retries:
            problems.append(
                f"a foreign program has written among the retries of {_names(self.strange_retries)} "
                f"({sum(self.strange_retries.values()):,} so far); these entries become dead letters"
            )
        problems += [text for ask in self.problems.values() if (text := ask()) is not None]
        return "; ".join(problems) or None

    # --- lines --------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Returns True if another error line may be logged now, and counts it."""
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

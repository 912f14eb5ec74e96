"""The events that are due to each group, and their allowed ends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import attrs

__all__ = ["Model", "matches"]


def matches(pattern: str, topic: str) -> bool:
    """True when a topic is the one, or of the pattern. Written again, to repeat no mistake of the bus."""
    return _matches(pattern.split("."), topic.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    match pattern:
        case []:
            return not words
        case ["#", *rest]:
            return any(_matches(rest, words[start:]) for start in range(len(words) + 1))
        case [word, *rest]:
            return bool(words) and word in ("*", words[0]) and _matches(rest, words[1:])
        case _:
            raise AssertionError(pattern)


@attrs.define
class Sent:
    """An event. ``due`` are the groups that must get it; ``doubtful``: nobody knows whether it is stored.

    ``removed``: somebody took it away who should not have. ``order`` is when it was published. ``readers``
    are, for each ordered group with one instance at most that cannot read it, the instances that could then.
    """

    event_id: str
    topic: str
    key: int
    plan: str
    order: int
    due: set[str]
    doubtful: bool = False
    removed: bool = False
    readers: Mapping[str, Collection[str]] = attrs.field(factory=dict)


class Model:
    """Learns what is done, and knows what is due."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.owed: set[tuple[str, str]] = set()
        self.ever: set[tuple[str, str]] = set()
        self.unordered: set[str] = set()
        self.purged: set[tuple[str, str]] = set()
        self.refused: set[str] = set()
        self.repeated: set[str] = set()
        self.disordered: set[str] = set()
        self._on_disk: tuple[int, set[tuple[str, str]]] | None = None

    @property
    def groups(self) -> frozenset[str]:
        """Every group that ever was."""
        return frozenset(group for group, _ in self.ever)

    def wanted(self, group: str, topic: str, ordered: bool) -> None:
        """A group will have the events of a topic or pattern from now on; it may get older ones."""
        self.ever.add((group, topic))
        if not ordered:
            self.unordered.add(group)

    def declared(self, group: str, topic: str) -> None:
        """A group is owed the events of a topic or pattern from now on."""
        self.owed.add((group, topic))

    def forgotten(self, group: str, topic: str | None, topics: Collection[str]) -> None:
        """A group is not owed this any more: neither what comes, nor what was there."""
        self.owed = {(name, of) for name, of in self.owed if name != group or topic not in (None, of)}
        for sent in self.sent.values():
            if topic is None or sent.topic in topics:
                sent.due.discard(group)

    def may_repeat(self, groups: Collection[str], *, out_of_order: bool) -> None:
        """From now on these groups may handle once more what they have handled."""
        self.repeated.update(groups)
        if out_of_order:
            self.disordered.update(groups)

    def due(self, topic: str) -> set[str]:
        """The groups that get what is published to a topic now."""
        return {group for group, of in self.owed if matches(of, topic)}

    def published(
        self,
        event_id: str,
        topic: str,
        key: int,
        plan: str,
        due: set[str],
        *,
        doubtful: bool,
        readers: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """An event was accepted, or nobody knows."""
        order = len(self.sent)
        self.sent[event_id] = Sent(
            event_id, topic, key, plan, order, {*due}, doubtful, readers={**(readers or {})}
        )

    def removed(self, event_ids: Iterable[str], topic: str, *, made: Collection[str]) -> None:
        """Somebody took them away: those of a topic on which these groups were made."""
        for event_id in event_ids:
            if (sent := self.sent.get(event_id)) is not None and sent.topic == topic:
                sent.removed = True
                sent.due.intersection_update(made)

    def remembered(self) -> None:
        """The server has on its disk what was done by now."""
        self._on_disk = len(self.sent), {*self.owed}

    def lessened(self) -> None:
        """The server has what was on its disk, and no more.

        When those who run have said again what they serve is not known. What is forgotten is counted by
        whoever published it; where the server has nothing, that is told without a number.
        """
        count, owed = self._on_disk or (0, set())
        self.owed &= owed
        for sent in self.sent.values():
            if self._on_disk is None or (sent.order >= count and sent.removed):
                sent.due.clear()  # what was counted of it is gone with the server
            elif sent.order >= count:
                sent.removed = True

    def must_get(self) -> Iterator[tuple[str, Sent]]:
        """Each event that was accepted, for each group that it is due to."""
        for sent in self.sent.values():
            if not sent.doubtful:
                for group in sorted(sent.due):
                    yield group, sent

    def may_get(self, group: str, topic: str) -> bool:
        """True when a group gets the events of a topic."""
        return any(name == group and matches(of, topic) for name, of in self.ever)

    def lost_possibly(self, topic: str) -> int:
        """The number of events of a topic that were taken away."""
        return sum(sent.removed for sent in self.sent.values() if sent.topic == topic)

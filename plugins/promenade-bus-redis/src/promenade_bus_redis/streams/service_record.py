"""What each service is owed, who serves it at the moment, and for how long services want events to be kept.

All of it is one hash, the record. Its fields, with blanks between the words:

===========================  ============================  ===============================================
field                        value                         what it says
===========================  ============================  ===============================================
part TOPIC GROUP             NUMBER SEEN ORDERED FACTS     a subscription serves, or served, this topic or
                                                           pattern; which declaration said so last
serves INSTANCE TOPIC GROUP  NUMBER ORDERED                an instance serves it at the moment
instance INSTANCE            NUMBER SETTLED KEEPS          an instance runs; whether it has said everything
keeps KEEPS                  SEEN                          until when an instance wanted that
count                        NUMBER                        the last number that was given out; one is when
                                                           something is forgotten, too
===========================  ============================  ===============================================

Numbers grow: they tell which of two declarations is newer, and no clock has a say in that. SEEN is the
server's time in milliseconds, for ages only. After that went back a part is dated anew.

A part binds retention until it is forgotten, whether or not somebody serves it, also on topics of its
pattern on which the group is not made yet. It is abandoned when no living instance serves it and a newer one
of its service serves other parts without it: then health names it at once. Where nobody newer runs that takes
longer, for a service may be stopped for a night. A part that is abandoned is taken up, and goes, when another
part of its group that is served covers all of its topics. So is a group that somebody seemed to have made by
hand, when a part of a service turns out to have its topic: it was noted before the service had said so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import attrs

from bus_core import TopicPattern
from bus_core.errors import InvalidTopic
from bus_core.events import TopicIndex, is_pattern

__all__ = [
    "Demand",
    "RetentionWish",
    "ServiceRecord",
    "Serving",
    "Span",
    "SubscribedTopic",
    "matcher_of",
    "read_record",
]

_ANY: Final = "0-any"
EVER: Final = 10**15


def matcher_of(topic: str) -> Callable[[str], bool]:
    """Whether a topic is the one, or of the pattern. What is neither, as somebody else wrote it, is none."""
    if not is_pattern(topic):
        return topic.__eq__
    with suppress(InvalidTopic):
        return TopicPattern(topic).matches
    return lambda _: False


@attrs.frozen(kw_only=True)
class SubscribedTopic:
    """A topic or pattern that a subscription serves, or served.

    ``service`` is empty for a group that somebody made by hand. ``unseen`` is for how many seconds no
    instance has said that it serves it, and ``instances`` are the living ones that do. ``is_abandoned``: a
    newer instance of the service runs without it. ``said`` is what the record says of it.
    """

    group: str
    topic: str
    said: str = attrs.field(default="", eq=False, repr=False)
    service: str = ""
    subscription: str = ""
    ordered: bool = False
    number: int = 0
    unseen: float = 0.0
    instances: tuple[str, ...] = ()
    is_abandoned: bool = False

    def __str__(self) -> str:
        return f"{self.group!r} on {self.topic!r}"

    def is_orphan(self, orphaned_after: float) -> bool:
        """Whether nobody will handle what is kept for it, for all that is known."""
        return not self.instances and (self.is_abandoned or self.unseen >= orphaned_after)


@attrs.frozen(kw_only=True)
class Serving:
    """An instance serves a part. ``number`` tells when it began to, compared with others."""

    instance: str
    group: str
    topic: str
    ordered: bool
    number: int


@attrs.frozen
class Span:
    """For how many seconds events stay, None for ever. ``upto`` bounds which: those stored up to that moment.

    The moment is milliseconds of the server's time; None for all events, also those to come.
    """

    seconds: float | None
    upto: int | None = None


@attrs.frozen(kw_only=True)
class RetentionWish:
    """For how long a service wants events to be kept: settled ones, those without a group, dead letters.

    ``upto`` is None while it runs, or has a subscription. Later on the wish is for what was stored by then.
    """

    service: str
    settled: float
    unsubscribed: float
    letters: float | None
    upto: int | None = None

    def is_over(self, now: int) -> bool:
        """Whether nothing is there any more that it is for."""
        if self.upto is None or self.letters is None:
            return False
        longest = max(self.settled, self.unsubscribed, self.letters)
        return self.upto + longest * 1000 <= now

    def encode(self) -> str:
        """As the record has it."""
        letters = "-" if self.letters is None else f"{self.letters!r}"
        return f"{self.settled!r} {self.unsubscribed!r} {letters} {self.service}"

    @classmethod
    def decode(cls, text: str, upto: int | None) -> RetentionWish:
        """Raises ``ValueError``."""
        settled, unsubscribed, letters, service = text.split(" ", 3)
        return cls(
            service=service,
            settled=float(settled),
            unsubscribed=float(unsubscribed),
            letters=None if letters == "-" else float(letters),
            upto=upto,
        )


@attrs.frozen(kw_only=True)
class ServiceRecord:
    """What the record said when it was read. ``now`` is the server's time in milliseconds."""

    now: int
    parts: tuple[SubscribedTopic, ...] = ()
    servings: tuple[Serving, ...] = ()
    wishes: tuple[RetentionWish, ...] = ()
    instances: Mapping[str, str] = attrs.field(factory=dict)
    """What each instance wants to be kept, as the record has it."""
    stale: tuple[tuple[str, str], ...] = ()
    """Fields that say nothing any more, and their values."""
    early: tuple[tuple[str, str], ...] = ()
    """Fields of parts that were declared in the future, and their values: the server's clock went back."""
    version: str = ""
    """The last number that was given out."""

    def of_group(self, group: str) -> tuple[SubscribedTopic, ...]:
        """The parts of one group."""
        return tuple(part for part in self.parts if part.group == group)

    def knows(self, group: str, topic: str) -> bool:
        """Whether a group is owed the events of a topic."""
        return any(part.service and matcher_of(part.topic)(topic) for part in self.of_group(group))

    def orphans(self, orphaned_after: float) -> tuple[SubscribedTopic, ...]:
        """Parts that nobody will handle, for all that is known."""
        mistaken = {*self._mistaken}
        return tuple(part for part in self.parts if part.is_orphan(orphaned_after) and part not in mistaken)

    @property
    def taken_up(self) -> tuple[SubscribedTopic, ...]:
        """Parts of which another part of the group has all topics: abandoned ones, and noted by mistake."""
        served: dict[str, list[str]] = {}
        for part in self.parts:
            if part.instances:
                served.setdefault(part.group, []).append(part.topic)
        abandoned = (
            part
            for part in self.parts
            if part.is_abandoned and any(_covers(topic, part.topic) for topic in served.get(part.group, ()))
        )
        return (*self._mistaken, *abandoned)

    @property
    def _mistaken(self) -> tuple[SubscribedTopic, ...]:
        """Parts of groups that were taken for made by hand before their services had said what they serve."""
        if not (noted := [part for part in self.parts if not part.service]):
            return ()
        demand = Demand(self.parts)
        return tuple(part for part in noted if part.group in demand.groups_on(part.topic))

    def spans(self, of: Callable[[RetentionWish], float | None]) -> tuple[Span, ...]:
        """For how long events stay, by one of the times that services want.

        The first one is the longest that counts for everything; the others are longer, for older events.
        """
        lasting = [of(wish) for wish in self.wishes if wish.upto is None]
        known = [seconds for seconds in lasting if seconds is not None]
        longest = None if len(known) < len(lasting) else max(known, default=0.0)
        spans = [Span(longest)]
        if longest is None:
            return tuple(spans)
        for wish in self.wishes:
            seconds = of(wish)
            if wish.upto is None or (seconds is not None and seconds <= longest):
                continue
            if seconds is None or wish.upto + seconds * 1000 > self.now:
                spans.append(Span(seconds, wish.upto))
        return tuple(spans)


def _covers(topic: str, other: str) -> bool:
    """Whether every topic of the other is one of these: of two patterns only where that is plain."""
    if topic in (other, "#"):
        return True
    if not is_pattern(other):
        return matcher_of(topic)(other)
    words = other.split(".")
    if _ANY in topic or words.count("#") > 1:
        return False  # it may be, but that is not plain
    # A word that no pattern has stands for '*', and ever more of them for '#': only a wildcard matches those.
    matches = matcher_of(topic)
    most = len(topic.split(".")) + 1 if "#" in words else 0
    return all(
        matches(".".join(name)) for count in range(most + 1) if (name := _example_of(words, count)) != []
    )


def _example_of(words: Sequence[str], count: int) -> list[str]:
    """A topic of a pattern, with so many words for its '#'."""
    name: list[str] = []
    for word in words:
        name += [_ANY] * count if word == "#" else [_ANY if word == "*" else word]
    return name


class Demand:
    """Which groups get the events of a topic. Made once per reading: there may be thousands of both."""

    def __init__(self, parts: Iterable[SubscribedTopic] = ()) -> None:
        self._groups: TopicIndex[str] = TopicIndex()
        for part in parts:
            if part.service and _is_sound(part.topic):  # another one binds by being there
                self._groups.add(part.topic, part.group)

    def groups_on(self, topic: str) -> Sequence[str]:
        """The groups that are owed a topic."""
        return self._groups.matching(topic)


def _is_sound(topic: str) -> bool:
    """Whether it is a topic or pattern, and not what somebody else wrote."""
    with suppress(InvalidTopic):
        TopicPattern(topic)
        return True
    return False


def _pairs(reply: Sequence[bytes]) -> Iterable[tuple[list[str], str]]:
    """The words of each field, of which the last one may have blanks, and its value."""
    for field, value in zip(reply[::2], reply[1::2], strict=True):
        text = field.decode(errors="replace")
        kind = text.partition(" ")[0]
        yield text.split(" ", {"part": 2, "serves": 3}.get(kind, 1)), value.decode(errors="replace")


def read_record(
    reply: Sequence[bytes], now: int, alive: Collection[str], own: RetentionWish, settled_one: str = ""
) -> ServiceRecord:
    """Reads the hash; what somebody else has put there says nothing.

    ``alive`` are the instances that live; ``own`` is what the one that reads wants to be kept. An instance
    that is about to say that it has said everything can be named.
    """
    parts: list[tuple[str, str, str]] = []
    servings: list[Serving] = []
    instances: dict[str, str] = {}
    settled: dict[str, int] = {}  # by service: the newest living instance that has said everything
    seen: dict[str, int] = {}
    version = ""
    for words, value in _pairs(reply):
        with suppress(ValueError):
            match words:
                case ["part", topic, group]:
                    parts.append((topic, group, value))
                case ["serves", instance, topic, group]:
                    number, ordered = value.split(" ")
                    serving = Serving(
                        instance=instance,
                        group=group,
                        topic=topic,
                        ordered=ordered == "1",
                        number=int(number),
                    )
                    servings.append(serving)
                case ["instance", instance]:
                    number, has_said_all, wish = value.split(" ", 2)
                    instances[instance] = wish
                    service = RetentionWish.decode(wish, None).service
                    if instance in alive and (has_said_all == "1" or instance == settled_one):
                        settled[service] = max(settled.get(service, 0), int(number))
                case ["count"]:
                    version = value
                case ["keeps", wish]:
                    seen[wish] = int(value)
                case _:
                    pass
    serving_by_part: dict[tuple[str, str], list[str]] = {}
    for serving in servings:
        if serving.instance in alive:
            serving_by_part.setdefault((serving.topic, serving.group), []).append(serving.instance)
    found: list[SubscribedTopic] = []
    early: list[tuple[str, str]] = []
    for topic, group, value in parts:
        with suppress(ValueError, TypeError, AttributeError):
            number, moment, ordered, facts = value.split(" ", 3)
            said = json.loads(facts)
            service = str(said.get("service", ""))
            served_by = serving_by_part.get((topic, group), [])
            part = SubscribedTopic(
                group=group,
                topic=topic,
                said=value,
                service=service,
                subscription=str(said.get("subscription", "")),
                ordered=ordered == "1",
                number=int(number),
                unseen=max(0.0, (now - int(moment)) / 1000),
                instances=tuple(sorted(served_by)),
                is_abandoned=not served_by and settled.get(service, 0) > int(number),
            )
            found.append(part)
            if int(moment) > now:
                early.append((f"part {topic} {group}", value))
    found.sort(key=lambda part: (part.group, part.topic))
    wishes = [*_wishes(seen, {*instances.values()}, {part.service for part in found})]
    counting = {own, *(wish for wish in wishes if not wish.is_over(now))}
    texts = {wish.encode() for wish in counting}
    return ServiceRecord(
        now=now,
        parts=tuple(found),
        servings=tuple(servings),
        wishes=tuple(sorted(counting, key=lambda wish: (wish.service, wish.encode()))),
        instances=instances,
        stale=tuple((f"keeps {text}", str(seen[text])) for text in seen if text not in texts),
        early=tuple(early),
        version=version,
    )


def _wishes(
    seen: Mapping[str, int], running: Collection[str], services: Collection[str]
) -> Iterable[RetentionWish]:
    """For how long services want events to be kept. A wish counts until its service has another one."""
    last: dict[str, tuple[float, str]] = {}
    for text in {*seen, *running}:
        with suppress(ValueError):
            wish = RetentionWish.decode(text, None)
            if text in running:
                yield wish
            moment = math.inf if text in running else seen[text]
            last[wish.service] = max(last.get(wish.service, (0, "")), (moment, text))
    for service, (moment, text) in last.items():
        if moment != math.inf:
            yield RetentionWish.decode(text, None if service in services else int(moment))

"""The record: the subscriptions of each service, the instances that serve them, and retention times.

The record is one hash. Its fields, with spaces between the words:

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

Numbers only increase. They order declarations without a clock. SEEN is the server's time in milliseconds,
used only for ages; if that clock went back, the part is dated again.

A part prevents the removal of events until it is forgotten, even without an instance that serves it. This
includes topics of its pattern where the group does not exist yet. A part is abandoned when no live instance
serves it and a newer instance of its service serves other parts without it; health then names it at once.
Without a newer instance this takes longer, because a service may be stopped for a night. An abandoned part is
removed when another served part of its group covers all of its topics. So is a seemingly foreign group, when
a part of a service has its topic: it was noted before the service had declared it.
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
    """Returns a function that matches a topic or pattern; an invalid one matches nothing."""
    if not is_pattern(topic):
        return topic.__eq__
    with suppress(InvalidTopic):
        return TopicPattern(topic).matches
    return lambda _: False


@attrs.frozen(kw_only=True)
class SubscribedTopic:
    """A topic or pattern that a subscription serves or served.

    ``service`` is empty for a foreign group. ``unseen`` is the time in seconds since an instance last
    declared it, and ``instances`` are the live ones that serve it. ``is_abandoned``: a newer instance of the
    service runs without it. ``said`` is its value in the record.
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
        """Returns True if, as far as known, no instance will handle its events."""
        return not self.instances and (self.is_abandoned or self.unseen >= orphaned_after)


@attrs.frozen(kw_only=True)
class Serving:
    """An instance serves a topic. ``number`` orders it among others by their beginning."""

    instance: str
    group: str
    topic: str
    ordered: bool
    number: int


@attrs.frozen
class Span:
    """A retention time in seconds, None for ever. It applies to events stored up to ``upto``.

    ``upto`` is in milliseconds of the server's time; None means all events, including future ones.
    """

    seconds: float | None
    upto: int | None = None


@attrs.frozen(kw_only=True)
class RetentionWish:
    """The retention times of a service, for settled events, for events without a group, and for dead letters.

    ``upto`` is None while the service runs or has a subscription. After that the times apply to events stored
    until then.
    """

    service: str
    settled: float
    unsubscribed: float
    letters: float | None
    upto: int | None = None

    def is_over(self, now: int) -> bool:
        """Returns True if no event is left that it applies to."""
        if self.upto is None or self.letters is None:
            return False
        longest = max(self.settled, self.unsubscribed, self.letters)
        return self.upto + longest * 1000 <= now

    def encode(self) -> str:
        """Returns its form in the record."""
        letters = "-" if self.letters is None else f"{self.letters!r}"
        return f"{self.settled!r} {self.unsubscribed!r} {letters} {self.service}"

    @classmethod
    def decode(cls, text: str, upto: int | None) -> RetentionWish:
        """Parses its form in the record; raises ``ValueError``."""
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
    """The record as it was read. ``now`` is the server's time in milliseconds."""

    now: int
    parts: tuple[SubscribedTopic, ...] = ()
    servings: tuple[Serving, ...] = ()
    wishes: tuple[RetentionWish, ...] = ()
    instances: Mapping[str, str] = attrs.field(factory=dict)
    """The retention times of each instance, in the form of the record."""
    stale: tuple[tuple[str, str], ...] = ()
    """Outdated fields and their values."""
    early: tuple[tuple[str, str], ...] = ()
    """Fields of parts declared in the future, and their values: the server's clock went back."""
    version: str = ""
    """The last assigned number."""

    def of_group(self, group: str) -> tuple[SubscribedTopic, ...]:
        """Returns the subscribed topics of a group."""
        return tuple(part for part in self.parts if part.group == group)

    def knows(self, group: str, topic: str) -> bool:
        """Returns True if a group has a subscription that matches a topic."""
        return any(part.service and matcher_of(part.topic)(topic) for part in self.of_group(group))

    def orphans(self, orphaned_after: float) -> tuple[SubscribedTopic, ...]:
        """Returns the topics whose events, as far as known, no instance will handle."""
        mistaken = {*self._mistaken}
        return tuple(part for part in self.parts if part.is_orphan(orphaned_after) and part not in mistaken)

    @property
    def taken_up(self) -> tuple[SubscribedTopic, ...]:
        """Returns topics covered by another of the group: abandoned ones, and ones noted by mistake."""
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
        """Returns topics of groups that looked foreign before their services had declared them."""
        if not (noted := [part for part in self.parts if not part.service]):
            return ()
        demand = Demand(self.parts)
        return tuple(part for part in noted if part.group in demand.groups_on(part.topic))

    def spans(self, of: Callable[[RetentionWish], float | None]) -> tuple[Span, ...]:
        """Returns the retention spans for one kind of time.

        The first span is the longest that applies to all events; the others are longer, and apply to older
        events.
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
    """Returns True if every topic of ``other`` certainly matches ``topic``."""
    if topic in (other, "#"):
        return True
    if not is_pattern(other):
        return matcher_of(topic)(other)
    words = other.split(".")
    if _ANY in topic or words.count("#") > 1:
        return False  # possible, but not certain
    # An unusual word replaces '*', and several of them replace '#', because only a wildcard matches them.
    matches = matcher_of(topic)
    most = len(topic.split(".")) + 1 if "#" in words else 0
    return all(
        matches(".".join(name)) for count in range(most + 1) if (name := _example_of(words, count)) != []
    )


def _example_of(words: Sequence[str], count: int) -> list[str]:
    """Returns a topic of a pattern, with ``count`` words for each '#'."""
    name: list[str] = []
    for word in words:
        name += [_ANY] * count if word == "#" else [_ANY if word == "*" else word]
    return name


class Demand:
    """The groups that receive a topic's events. Made once per reading, because both may be thousands."""

    def __init__(self, parts: Iterable[SubscribedTopic] = ()) -> None:
        self._groups: TopicIndex[str] = TopicIndex()
        for part in parts:
            if part.service and _is_sound(part.topic):  # a foreign group counts by its existence
                self._groups.add(part.topic, part.group)

    def groups_on(self, topic: str) -> Sequence[str]:
        """Returns the groups with a subscription that matches a topic."""
        return self._groups.matching(topic)


def _is_sound(topic: str) -> bool:
    """Returns True for a valid topic or pattern, and False for foreign data."""
    with suppress(InvalidTopic):
        TopicPattern(topic)
        return True
    return False


def _pairs(reply: Sequence[bytes]) -> Iterable[tuple[list[str], str]]:
    """Returns the words of each field and its value; the last word may contain spaces."""
    for field, value in zip(reply[::2], reply[1::2], strict=True):
        text = field.decode(errors="replace")
        kind = text.partition(" ")[0]
        yield text.split(" ", {"part": 2, "serves": 3}.get(kind, 1)), value.decode(errors="replace")


def read_record(
    reply: Sequence[bytes], now: int, alive: Collection[str], own: RetentionWish, settled_one: str = ""
) -> ServiceRecord:
    """Parses the hash and ignores foreign fields.

    ``alive`` are the live instances, and ``own`` the retention times of the reading one. An instance that is
    about to declare that its declarations are complete can be named.
    """
    parts: list[tuple[str, str, str]] = []
    servings: list[Serving] = []
    instances: dict[str, str] = {}
    settled: dict[str, int] = {}  # by service: the newest live instance with complete declarations
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
    """Returns the retention times of services. A time applies until its service has another one."""
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

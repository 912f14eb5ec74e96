"""Topics, the catalogues that contexts publish, patterns over topics, and the registry of them all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from inspect import isabstract
from typing import Any, Generic, TypeVar

import attrs

from bus_core.errors import InvalidTopic, TopicConflict, UnknownTopic
from bus_core.events.base import Event, model_of

__all__ = [
    "Topic",
    "TopicCatalogue",
    "TopicPattern",
    "TopicRegistry",
    "class_name",
    "is_pattern",
    "nearest_names",
    "patterns_overlap",
]

E = TypeVar("E", bound=Event[Any])

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_LENGTH = 200


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidTopic(f"a topic name is a str, got {name!r}")
    if is_pattern(name):
        raise InvalidTopic(
            f"{name!r} is a pattern; a topic needs one definite name (patterns are for subscribe)"
        )
    _check_words(name, name.split("."))
    return name


def _check_words(name: str, words: Iterable[str]) -> None:
    if len(name) > _MAX_LENGTH:
        raise InvalidTopic(
            f"the topic name {name[:40]!r}... has {len(name)} characters; at most {_MAX_LENGTH} fit"
        )
    for word in words:
        if not _WORD.fullmatch(word):
            raise InvalidTopic(
                f"invalid topic name {name!r}: words of letters, digits, '_' and '-', "
                "separated by single dots, as in 'identity.user.registered'"
            )


def is_pattern(name: str) -> bool:
    """True when a name has a wildcard word."""
    return "*" in name or "#" in name


def nearest_names(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Known names that are similar to ``name``, the best first."""
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=0.72)


def _check_advice(topic: Topic[Any], _attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, str) and value):
        raise InvalidTopic(f"topic {topic.name!r}: deprecated is what to do instead, as text, got {value!r}")


@attrs.frozen(eq=False)
class Topic(Generic[E]):
    """A named channel with its class of event: ``Topic("identity.user.registered", UserRegistered)``.

    ``key`` derives the ordering key from an event; by default it is the text of ``aggregate_id``.
    A Topic is its own declaration. Two topics of one name may exist when their classes are the same.
    ``deprecated`` is advice such as ``"use identity.user.joined"``: a bus warns publishers and subscribers of
    the topic once each, with a ``DeprecationWarning``.

    Raises ``InvalidTopic`` for a bad name, or a class that is not an event class.
    """

    name: str = attrs.field(converter=_check_name)
    event_class: type[E]
    key: Callable[[E], str] | None = attrs.field(default=None, kw_only=True, repr=False)
    deprecated: str | None = attrs.field(default=None, kw_only=True, repr=False, validator=_check_advice)

    def __attrs_post_init__(self) -> None:
        cls: Any = self.event_class
        if not (isinstance(cls, type) and issubclass(cls, Event)):
            raise InvalidTopic(f"topic {self.name!r} needs a class derived from Event, got {cls!r}")
        if "__attrs_attrs__" not in cls.__dict__:
            raise InvalidTopic(f"topic {self.name!r}: decorate the class {cls.__qualname__} with @event")
        if isabstract(cls):
            raise InvalidTopic(
                f"topic {self.name!r}: the class {cls.__qualname__} is abstract; nobody can make one"
            )

    def __str__(self) -> str:
        return self.name


def _check_class(topic: Topic[Any]) -> None:
    """Resolves the annotations of the class now, because a reader could not."""
    try:
        model_of(topic.event_class)
    except TypeError as error:
        raise InvalidTopic(f"topic {topic.name!r}: {error}") from error


def _check_pattern(_pattern: TopicPattern, _attribute: attrs.Attribute[str], text: object) -> None:
    if not isinstance(text, str):
        raise InvalidTopic(f"a topic pattern is a str, got {text!r}")
    if not text:
        raise InvalidTopic("an empty topic pattern matches nothing; '#' matches every topic")
    _check_words(text, (word for word in text.split(".") if word not in ("*", "#")))


def _fits(stretch: Iterable[str], words: Sequence[str], at: int) -> bool:
    """True when words without a '#' match those of a topic from a position on."""
    for word in stretch:
        if word not in ("*", words[at]):
            return False
        at += 1
    return True


@attrs.frozen
class TopicPattern:
    """An AMQP topic pattern: ``*`` matches one word, ``#`` zero or more words.

    ``TopicPattern("identity.*.created").matches("identity.user.created")`` is True.
    """

    text: str = attrs.field(validator=_check_pattern)
    _stretches: tuple[list[str], ...] = attrs.field(init=False, eq=False, repr=False)  # between the hashes

    def __attrs_post_init__(self) -> None:
        stretches = " ".join(self.text.split(".")).split("#")
        object.__setattr__(self, "_stretches", tuple(stretch.split() for stretch in stretches))

    def matches(self, topic: str) -> bool:
        """True when the pattern covers the topic of that name."""
        words = topic.split(".")
        first, *others = self._stretches
        spare = len(words) - sum(map(len, self._stretches))  # the number of words for the hashes
        if spare < 0 or not _fits(first, words, 0):
            return False
        if not others:
            return not spare
        *inner, last = others
        if not _fits(last, words, len(words) - len(last)):
            return False
        # The words between two hashes take the first place where they fit. Trying every place would take
        # exponential time in the number of hashes.
        at = len(first)
        for stretch in inner:
            while not _fits(stretch, words, at):
                at += 1
                spare -= 1
                if spare < 0:
                    return False
            at += len(stretch)
        return True

    @property
    def specificity(self) -> tuple[int, int, int]:
        """Sorts patterns that match a topic: the largest key is the most specific pattern."""
        words = self.text.split(".")
        return (sum(word not in ("*", "#") for word in words), -words.count("#"), words.count("*"))


def patterns_overlap(first: str, second: str) -> bool:
    """True when some topic name is matched by both patterns (or names)."""
    if not is_pattern(first) and not is_pattern(second):
        return first == second
    left, right = first.split("."), second.split(".")

    @cache
    def overlap(i: int, j: int) -> bool:
        if i == len(left):
            return all(word == "#" for word in right[j:])
        if j == len(right):
            return all(word == "#" for word in left[i:])
        if left[i] == "#" or right[j] == "#":
            return overlap(i + 1, j) or overlap(i, j + 1)
        return (left[i] == right[j] or "*" in (left[i], right[j])) and overlap(i + 1, j + 1)

    return overlap(0, 0)


def _as_topics(topics: Iterable[Topic[Any]]) -> tuple[Topic[Any], ...]:
    return tuple(topics)


@attrs.frozen(eq=False)
class TopicCatalogue:
    """The topics that one context owns. Their names begin with the name of the context.

    ``TopicCatalogue("identity", [USER_REGISTERED, USER_DELETED])``

    Raises ``InvalidTopic`` when a topic belongs to another context or is listed twice.
    """

    context: str = attrs.field(converter=_check_name)
    topics: tuple[Topic[Any], ...] = attrs.field(converter=_as_topics)

    def __attrs_post_init__(self) -> None:
        faults: list[str] = []
        seen: set[str] = set()
        for topic in self.topics:
            if not topic.name.startswith(self.context + "."):
                faults.append(f"{topic.name!r} does not begin with {self.context + '.'!r}")
            if topic.name in seen:
                faults.append(f"{topic.name!r} is listed twice")
            seen.add(topic.name)
        if faults:
            raise InvalidTopic(f"the catalogue of {self.context!r}: " + "; ".join(faults))

    def __iter__(self) -> Iterator[Topic[Any]]:
        return iter(self.topics)

    def __len__(self) -> int:
        return len(self.topics)


@attrs.frozen
class _Known:
    topic: Topic[Any]
    origin: str


class TopicRegistry:
    """Every topic that a bus knows: those of catalogues, and Topic objects as they are used."""

    def __init__(self, *, strict: bool = True) -> None:
        self._known: dict[str, _Known] = {}
        self._strict = strict

    def add_catalogue(self, catalogue: TopicCatalogue, origin: str) -> None:
        """Adds the topics of a catalogue; raises ``TopicConflict`` when another one declared a name."""
        for topic in catalogue:
            known = self._known.get(topic.name)
            if known is not None and known.origin != origin:
                raise TopicConflict(
                    f"topic {topic.name!r} is declared by {known.origin} and by {origin}; "
                    "one context owns a topic"
                )
            _check_class(topic)
            self._known[topic.name] = _Known(topic, origin)

    def declare(self, topic: Topic[Any]) -> Topic[Any]:
        """Makes a Topic object known; raises ``TopicConflict`` for one name with two classes or keys.

        Raises ``InvalidTopic`` when an annotation of the class names something undefined.
        """
        known = self._known.get(topic.name)
        if known is None:
            _check_class(topic)
            self._known[topic.name] = _Known(topic, "declared in code")
            return topic
        ours, theirs = known.topic.event_class, topic.event_class
        if ours is not theirs:
            raise TopicConflict(
                f"topic {topic.name!r} is declared with {class_name(ours)} ({known.origin}) "
                f"and with {class_name(theirs)}; one topic carries one class of event"
            )
        if topic.key is not None and topic.key is not known.topic.key:
            raise TopicConflict(
                f"topic {topic.name!r} is declared with another key ({known.origin}); "
                "one topic has one ordering key: declare it once, and import it from there"
            )
        return known.topic

    def find(self, name: str) -> Topic[Any]:
        """The topic of a name; raises ``UnknownTopic`` or ``InvalidTopic``."""
        known = self._known.get(name)
        if known is not None:
            return known.topic
        checked = _check_name(name)
        if self._strict:
            raise UnknownTopic(checked, nearest_names(checked, self._known))
        return Topic(checked, Event)

    def get(self, name: str) -> Topic[Any] | None:
        """The topic of a name; None for an unknown one, without a search for similar names."""
        known = self._known.get(name)
        return None if known is None else known.topic

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def origin(self, name: str) -> str | None:
        """The distribution or module that declared a topic; None for an unknown one."""
        known = self._known.get(name)
        return None if known is None else known.origin

    def matching(self, pattern: TopicPattern) -> list[str]:
        """The names of the known topics that a pattern covers, sorted."""
        return sorted(name for name in self._known if pattern.matches(name))

    def as_mapping(self) -> Mapping[str, Topic[Any]]:
        """All known topics by name, sorted."""
        return {name: self._known[name].topic for name in sorted(self._known)}


def class_name(cls: type[Any]) -> str:
    """The name of a class in messages: with its module."""
    return f"{cls.__module__}.{cls.__qualname__}"

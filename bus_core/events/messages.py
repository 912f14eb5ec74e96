"""Values that travel: messages, deliveries, outcomes, failed attempts, dead letters."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias
from uuid import UUID

import attrs

from bus_core.events.base import Event
from bus_core.events.primitives import FrozenMapping
from bus_core.events.topics import TopicPattern, is_pattern
from bus_core.events.values import write_datetime

__all__ = [
    "NO_HEADERS",
    "Attempt",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterPage",
    "DeadLetterTally",
    "Delivery",
    "DeliverySource",
    "Envelope",
    "EventRecord",
    "Message",
    "Outcome",
    "Received",
    "begin_of_run",
    "delivery_of",
    "envelope_and_delivery_of",
    "envelope_of",
    "merge_tallies",
    "tally_of",
    "with_attempt",
]


NO_HEADERS: FrozenMapping[str, str] = FrozenMapping()


def _size_of(body: bytes) -> str:
    """Shown in place of a body, which may have personal data."""
    return f"<{len(body)} bytes>"


# As immutable as a frozen class, with an ``__init__`` that takes a third of the time.
@attrs.define(on_setattr=attrs.setters.frozen)
class Message:
    """An event encoded for an adapter. Refuses assignments.

    ``id`` is the text of the event's ``event_id``; ``key`` is the ordering key; ``headers`` travel
    beside the body, and are not part of the event.
    """

    id: str
    topic: str
    key: str
    body: bytes = attrs.field(repr=_size_of)
    headers: Mapping[str, str] = attrs.field(factory=FrozenMapping)


EventRecord: TypeAlias = "tuple[Event | Message, str, float, Mapping[str, str], str | None]"
"""An accepted event on its way to handlers in this process.

Its fields: the event or message, the topic, the time (seconds since the epoch), the headers, and the ordering
key. The key is None when it is the text of ``aggregate_id``, which is computed on demand.
"""

DeliverySource: TypeAlias = "tuple[EventRecord, str, int, bool, str, tuple[Attempt, ...]]"
"""The facts of an attempt.

They are the record, the subscription's name, the number of the attempt, ``redelivered``, the subscription's
group, and the failed attempts before.
"""


class _OnDemand:
    """Fields that are computed at the first access, because most handlers use few of them."""

    __slots__ = ("_source",)

    _source: DeliverySource
    _worked_out: ClassVar[Mapping[str, Callable[[DeliverySource], object]]]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            work_out = self._worked_out.get(name)
            if work_out is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = work_out(self._source)
            object.__setattr__(self, name, value)
            return value


@attrs.frozen
class Delivery(_OnDemand):
    """One attempt to hand one event to one subscription, as its handler sees it.

    ``attempt`` counts from 1. ``redelivered`` is true when an earlier attempt may have been begun: a
    retry, a redrive, or a message taken over from a consumer that died. ``redriven`` is true when the
    event was a dead letter of this subscription that somebody has redriven, or was replayed to it, in
    every attempt since. ``redriven_at`` is the time of the last attempt before that, None without any; it
    differs for each redrive. ``group`` is the service and the subscription, with one dot between.
    ``body`` is the encoded event as it arrived; None where the event was handed over as an object.
    """

    topic: str
    subscription: str
    message_id: str
    attempt: int
    redelivered: bool
    published_at: datetime
    headers: Mapping[str, str]
    redriven: bool = False
    redriven_at: datetime | None = None
    group: str = ""
    body: bytes | None = attrs.field(default=None, repr=False)

    _worked_out: ClassVar[Mapping[str, Callable[[DeliverySource], object]]] = {
        "topic": lambda source: source[0][1],
        "subscription": itemgetter(1),
        "message_id": lambda source: _id_of(source[0][0]),
        "attempt": itemgetter(2),
        "redelivered": itemgetter(3),
        "published_at": lambda source: datetime.fromtimestamp(source[0][2], UTC),
        "headers": lambda source: source[0][3],
        "redriven": lambda source: _redriven_at(source[5], source[2]) is not None,
        "redriven_at": lambda source: _redriven_at(source[5], source[2]),
        "group": itemgetter(4),
        "body": lambda source: _body_of(source[0][0]),
    }


def _body_of(payload: Event | Message) -> bytes | None:
    return payload.body if isinstance(payload, Message) else None


def _redriven_at(history: tuple[Attempt, ...], attempt: int) -> datetime | None:
    """The time of the last attempt before a redrive or a replay: only then attempts count from 1 again."""
    begin = begin_of_run(history, attempt)
    return history[begin - 1].at if begin else None


def begin_of_run(history: Sequence[Attempt], attempt: int) -> int:
    """The index of the first attempt since they were last counted from 1; ``attempt`` comes next."""
    begin, later = len(history), attempt
    while begin and history[begin - 1].number < later:
        begin -= 1
        later = history[begin].number
    return begin


def _id_of(payload: Event | Message) -> str:
    return payload.id if isinstance(payload, Message) else str(payload.event_id)


@attrs.define
class Envelope(_OnDemand):
    """An event on its way through a middleware chain, in both directions.

    ``delivery`` is None while publishing. A publish middleware may change ``headers`` and replace
    ``event`` by another one of the topic's class.
    """

    topic: str
    event: Event
    headers: dict[str, str]
    delivery: Delivery | None = None

    _worked_out: ClassVar[Mapping[str, Callable[[DeliverySource], object]]] = {
        "topic": lambda source: source[0][1],
        "headers": lambda source: dict(source[0][3]),
        "delivery": lambda source: delivery_of(source),
    }

    @property
    def direction(self) -> Literal["publish", "consume"]:
        """The direction: the chain that this envelope passes through."""
        return "publish" if self.delivery is None else "consume"


_new: Final = object.__new__
_set_source: Final = _OnDemand.__dict__["_source"].__set__  # of the slot
_set_event: Final = Envelope.__dict__["event"].__set__
_set_delivery: Final = Envelope.__dict__["delivery"].__set__


def delivery_of(source: DeliverySource) -> Delivery:
    """The delivery of an attempt. It is made for each event, and its fields are computed on demand."""
    made = _new(Delivery)
    _set_source(made, source)
    return made


def envelope_of(event: Event, source: DeliverySource) -> Envelope:
    """The envelope of an attempt, made like a delivery in ``delivery_of``."""
    made = _new(Envelope)
    _set_event(made, event)
    _set_source(made, source)
    return made


def envelope_and_delivery_of(event: Event, source: DeliverySource) -> Envelope:
    """Makes the same where the handler takes the delivery, which is then always used."""
    made = _new(Envelope)
    _set_event(made, event)
    _set_source(made, source)
    delivery = _new(Delivery)
    _set_source(delivery, source)
    _set_delivery(made, delivery)
    return made


@attrs.define(on_setattr=attrs.setters.frozen, unsafe_hash=True)
class Attempt:
    """An attempt that failed: its number from 1, when it failed, and the error. Refuses assignments.

    ``error`` is ``"Type: message"``, with causes and the members of groups. ``<personal>`` is in place of
    values that are marked as personal in the event. Messages may hold other personal data, so treat it like
    the body. ``place`` is where the application raised it: ``file:line in function``, or empty.
    ``traceback`` is empty unless ``bus.tracebacks`` asks for it.
    """

    number: int
    at: datetime
    error: str = attrs.field(repr=lambda error: _type_in(error))
    place: str = ""
    traceback: str = attrs.field(default="", repr=False)

    @property
    def error_type(self) -> str:
        """The name of the error's class."""
        return _type_in(self.error)

    def to_dict(self) -> dict[str, Any]:
        """The attempt as plain data that is ready for JSON; ``traceback`` only where it was kept."""
        told: dict[str, Any] = {
            "number": self.number,
            "at": write_datetime(self.at),
            "error_type": self.error_type,
            "error": self.error,
            "place": self.place,
        }
        return {**told, "traceback": self.traceback} if self.traceback else told


def _type_in(error: str) -> str:
    """The class name before the text of an error, its causes, or the members of a group."""
    return _TYPE.match(error)[0]  # type: ignore[index]  # it matches anything


_TYPE: Final = re.compile(r"[^:;\s]*")


_FIRST_KEPT: Final = 5
_LAST_KEPT: Final = 15
_TRACEBACKS_KEPT: Final = 5


def with_attempt(history: tuple[Attempt, ...], attempt: Attempt) -> tuple[Attempt, ...]:
    """A history and one more attempt.

    It travels with each retry, so it is bounded: of more than twenty attempts the first five and the last
    fifteen are kept. Their numbers tell how many there were in between. The last five keep their tracebacks.
    """
    if attempt.traceback and len(history) >= _TRACEBACKS_KEPT:
        *earlier, late = history[: 1 - _TRACEBACKS_KEPT]
        history = (*earlier, attrs.evolve(late, traceback=""), *history[1 - _TRACEBACKS_KEPT :])
    if len(history) < _FIRST_KEPT + _LAST_KEPT:
        return (*history, attempt)
    return (*history[:_FIRST_KEPT], *history[1 - _LAST_KEPT :], attempt)


@attrs.frozen
class DeadLetter:
    """A message that a subscription gave up on.

    ``id`` is opaque and unique in the bus. ``body`` holds the encoded event, or the raw bytes of what
    could not be decoded. ``attempts`` is the history, over redrives; of more than twenty attempts the first
    five and the last fifteen.
    """

    id: str
    topic: str
    subscription: str
    event_id: UUID | None
    key: str
    reason: str
    attempts: tuple[Attempt, ...]
    body: bytes = attrs.field(repr=_size_of)
    headers: Mapping[str, str] = attrs.field(factory=FrozenMapping)
    dead_at: datetime = attrs.field(kw_only=True)

    @property
    def failure(self) -> tuple[str, str]:
        """The class of the last error and its place; the reason, and no place, without a known attempt."""
        if not self.attempts:
            return self.reason, ""
        return self.attempts[-1].error_type, self.attempts[-1].place

    def to_dict(self, *, body: bool = True) -> dict[str, Any]:
        """The letter as plain data that is ready for JSON.

        ``body`` is a text; where its bytes are not UTF-8 there is ``body_base64`` instead. It may hold
        personal data, and so may the errors in ``attempts``: ``body=False`` leaves the body out.
        """
        told: dict[str, Any] = {
            "id": self.id,
            "topic": self.topic,
            "subscription": self.subscription,
            "event_id": None if self.event_id is None else str(self.event_id),
            "key": self.key,
            "reason": self.reason,
            "dead_at": write_datetime(self.dead_at),
            "attempts": [attempt.to_dict() for attempt in self.attempts],
            "headers": dict(self.headers),
        }
        if not body:
            return told
        try:
            return {**told, "body": self.body.decode()}
        except UnicodeDecodeError:
            return {**told, "body_base64": b64encode(self.body).decode()}


class DeadLetterPage(list[DeadLetter]):
    """Some dead letters, the oldest first. ``next_cursor`` is where the next ones begin; None at the end."""

    __slots__ = ("next_cursor",)

    def __init__(self, letters: Iterable[DeadLetter] = (), next_cursor: str | None = None) -> None:
        super().__init__(letters)
        self.next_cursor = next_cursor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()}, next_cursor={self.next_cursor!r})"


@attrs.frozen
class DeadLetterTally:
    """The number of letters of one topic and subscription with the same error at the same place.

    ``error_type`` and ``place`` are a letter's ``failure``. ``oldest`` and ``newest`` say when the first and
    the last of them died.
    """

    topic: str
    subscription: str
    error_type: str
    place: str
    count: int
    oldest: datetime
    newest: datetime

    def to_dict(self) -> dict[str, Any]:
        """The tally as plain data that is ready for JSON."""
        times = {"oldest": write_datetime(self.oldest), "newest": write_datetime(self.newest)}
        return {**attrs.asdict(self), **times}


def tally_of(letters: Iterable[DeadLetter]) -> list[DeadLetterTally]:
    """Letters in groups, the largest first; the result of ``DeadLetterStore.tally``."""
    return merge_tallies(
        DeadLetterTally(each.topic, each.subscription, *each.failure, 1, each.dead_at, each.dead_at)
        for each in letters
    )


def merge_tallies(tallies: Iterable[DeadLetterTally]) -> list[DeadLetterTally]:
    """Joins the tallies of several parts, the largest first."""
    found: dict[tuple[str, ...], DeadLetterTally] = {}
    for each in tallies:
        name = (each.topic, each.subscription, each.error_type, each.place)
        known = found.get(name)
        if known is not None:
            each = attrs.evolve(
                known,
                count=known.count + each.count,
                oldest=min(known.oldest, each.oldest),
                newest=max(known.newest, each.newest),
            )
        found[name] = each
    return [each for _, each in sorted(found.items(), key=lambda item: (-item[1].count, item[0]))]


def _checked_topic(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None and is_pattern(value):
        TopicPattern(value)


def _checked_moment(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not (value is None or (isinstance(value, datetime) and value.utcoffset() is not None)):
        raise ValueError(f"{attribute.name} must be an aware datetime, got {value!r}")


@attrs.frozen(kw_only=True)
class DeadLetterFilter:
    """Selects dead letters; a criterion that is None selects all.

    ``topic`` is a name or a pattern. ``error`` is a text that is in the reason, or in the error or the place
    of the last attempt, as it is written. ``dead_before`` and ``dead_after`` are aware times: a letter's
    ``dead_at`` is before the one, and not before the other. ``ids`` are ids of letters, as a frozenset.

    Raises ``InvalidTopic`` for a bad pattern, and ``ValueError`` for a time without a zone.
    """

    topic: str | None = attrs.field(default=None, validator=_checked_topic)
    subscription: str | None = None
    error: str | None = None
    dead_before: datetime | None = attrs.field(default=None, validator=_checked_moment)
    dead_after: datetime | None = attrs.field(default=None, validator=_checked_moment)
    event_id: UUID | None = None
    ids: frozenset[str] | None = None

    def selects(self, letter: DeadLetter) -> bool:
        """True when the letter meets every criterion."""
        return (
            self.subscription in (None, letter.subscription)
            and self.event_id in (None, letter.event_id)
            and (self.ids is None or letter.id in self.ids)
            and (self.dead_before is None or letter.dead_at < self.dead_before)
            and (self.dead_after is None or letter.dead_at >= self.dead_after)
            and self.selects_topic(letter.topic)
            and (self.error is None or self._error_is_in(letter))
        )

    def selects_topic(self, name: str) -> bool:
        """True when the filter may select letters of the topic of that name."""
        wanted = self.topic
        return wanted is None or wanted == name or (is_pattern(wanted) and _pattern(wanted).matches(name))

    def _error_is_in(self, letter: DeadLetter) -> bool:
        last = letter.attempts[-1:]
        texts = [letter.reason, *(each.error for each in last), *(each.place for each in last)]
        return any(str(self.error) in text for text in texts)


_pattern = cache(TopicPattern)


# --- between the engine and a consumer --------------------------------------------------------------------
# Both are made once per message and never shared. They are assignable, because that costs a third of a frozen
# class.


@attrs.define(kw_only=True)
class Received:
    """A message that a consumer of an adapter owns from now on, until it is settled.

    ``receipt`` is the adapter's own, for ``Consumer.settle``. ``attempt`` is the number of the attempt
    that comes now: 1 plus the failed ones that count. ``history`` holds those, and earlier ones from
    before a redrive. ``redelivered`` says that an earlier attempt may have been begun. ``waited`` is what the
    last ``Outcome`` said of it; nothing after a redrive. ``delay`` is the time in seconds that is left of the
    ``delay`` of that outcome: the engine begins the attempt no earlier.

    ``owner_died`` is true when the owner before this one died, or lost its lease, and may have been handling
    it. This counts as an attempt, and is the last entry of ``history``. While a message waits for its retry,
    nobody handles it. ``fault`` is the reason that the message cannot be read: it is dead-lettered with its
    raw body.
    """

    message: Message
    receipt: Any
    published_at: datetime
    attempt: int = 1
    redelivered: bool = False
    owner_died: bool = False
    fault: str | None = None
    history: tuple[Attempt, ...] = ()
    waited: float = 0.0
    delay: float = 0.0


@attrs.define
class Outcome:
    """The settlement of a received message that a consumer is asked for.

    ============  ==========================================================================================
    ``action``    the adapter
    ============  ==========================================================================================
    ack           forgets the message for this subscription
    dead_letter   stores ``letter`` and forgets the message, both or neither
    retry         hands it out again to this subscription, on any instance, in ``delay`` seconds
    release       hands it out again to this subscription, on any instance, at once, and before what was
                  stored after it. The next attempt is due in ``delay`` seconds: ``Received`` tells the rest
    hold          nothing: the engine keeps it and tries again by itself, in ``delay`` seconds, or now for 0.
                  An adapter that can notes ``attempt``, ``history`` and ``delay``, so that they survive the
                  process
    ============  ==========================================================================================

    A message that is handed out again is ``redelivered``: a handler may have begun it.

    ``attempt`` is the number of the next attempt, and ``history`` the attempts before it. ``waited`` is the
    time in seconds that it has waited for an instance that can decode it. ``Received`` has the same values
    when the message is handed out again.
    """

    action: Literal["ack", "dead_letter", "retry", "release", "hold"]
    receipt: Any
    delay: float = 0.0
    attempt: int = 1
    history: tuple[Attempt, ...] = ()
    letter: DeadLetter | None = None
    waited: float = 0.0

"""Typed, immutable events: the ``Event`` base, the ``@event`` decorator, and the untyped ``BaseEvent``.

An event class is an attrs class with slots that refuses assignments. Making an event is most of what
publishing one costs, so the checks of its fields are compiled into one expression per class.
"""

from __future__ import annotations

import enum
import math
import random
import re
import sys
import time
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NewType,
    NoReturn,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)
from uuid import UUID, SafeUUID

import attrs

from bus_core.errors import InvalidEvent

__all__ = [
    "BaseEvent",
    "Constraint",
    "Event",
    "FrozenMapping",
    "Personal",
    "event",
    "event_type_of",
    "event_version_of",
    "is_personal",
    "uuid7",
]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

_new_object = object.__new__


# --- identifiers and values -------------------------------------------------------------------------------


_set_uuid_int = UUID.__dict__["int"].__set__
_UNKNOWN_SAFETY = SafeUUID.unknown
_set_uuid_is_safe = UUID.__dict__["is_safe"].__set__


def uuid_of_int(number: int) -> UUID:
    """``UUID(int=number)`` for a number that is known to have at most 128 bits, three times as fast."""
    made = _new_object(UUID)
    _set_uuid_int(made, number)
    _set_uuid_is_safe(made, _UNKNOWN_SAFETY)
    return made


def uuid7() -> UUID:
    """A time-ordered identifier of version 7 (RFC 9562, section 5.7).

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of section 6.2), so
    that identifiers made by one process sort by time to about a quarter of a microsecond. The other
    62 bits are random, but not secret: do not use one as a token.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    return uuid_of_int(
        (milliseconds & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | fraction << 64
        | 0x2 << 62
        | random.getrandbits(62)
    )


class FrozenMapping(dict[K, V], Generic[K, V]):
    """A dict that refuses changes. It can be copied, pickled and encoded like any dict."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("this mapping belongs to an immutable event; make a dict(...) of it to change a copy")

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenMapping[K, V]], tuple[dict[K, V]]]:
        return type(self), (dict(self),)

    def __copy__(self) -> FrozenMapping[K, V]:
        return self

    def __deepcopy__(self, _memo: object) -> FrozenMapping[K, V]:
        return self


def _deep_frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenMapping({key: _deep_frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_deep_frozen(item) for item in value)
    return value


class _PersonalMark:
    __slots__ = ()

    def __repr__(self) -> str:
        return "PERSONAL"


PERSONAL = _PersonalMark()

Personal = Annotated[T, PERSONAL]
"""Marks a field that holds personal data: ``email: Personal[str]``.

Its value never appears in the event's repr or in an error message of the bus.
"""


@attrs.frozen
class Constraint:
    """A rule for values: ``CountryCode = Annotated[str, Constraint("two capital letters", check)]``.

    ``check`` gets a value that already has the annotated type and returns whether it is acceptable.
    ``description`` completes the sentence "must be ...".
    """

    description: str
    check: Callable[[Any], bool] = attrs.field(repr=False)


# --- checking field values --------------------------------------------------------------------------------

Check = Callable[[Any], "str | None"]
"""Returns None for a good value, otherwise what it must be."""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _instance_check(expected: type, words: str) -> Check:
    def check(value: Any) -> str | None:
        return None if isinstance(value, expected) else words

    return check


def _int_check(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) else "an int"


def _float_check(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    return None if math.isfinite(value) else "a finite number (JSON has no NaN or infinity)"


def _decimal_check(value: Any) -> str | None:
    if not isinstance(value, Decimal):
        return "a Decimal"
    return None if value.is_finite() else "a finite Decimal"


def _datetime_check(value: Any) -> str | None:
    if not isinstance(value, datetime):
        return "a datetime"
    if value.utcoffset() is None:
        return "an aware datetime, such as datetime.now(UTC); this one is naive (it has no time zone)"
    return None


def _date_check(value: Any) -> str | None:
    return None if isinstance(value, date) and not isinstance(value, datetime) else "a date"


_SIMPLE: dict[Any, Check] = {
    str: _instance_check(str, "a str"),
    bytes: _instance_check(bytes, "bytes"),
    bool: _instance_check(bool, "a bool"),
    int: _int_check,
    float: _float_check,
    Decimal: _decimal_check,
    UUID: _instance_check(UUID, "a UUID"),
    datetime: _datetime_check,
    date: _date_check,
    time_of_day: _instance_check(time_of_day, "a time"),
    timedelta: _instance_check(timedelta, "a timedelta"),
    type(None): _instance_check(type(None), "None"),
}


def _each(container: type, words: str, item_checks: tuple[Check, ...]) -> Check:
    """Checks a container and every item of it (for mappings: every key and value)."""
    is_mapping = issubclass(container, Mapping)

    def check(value: Any) -> str | None:
        if not isinstance(value, container) or isinstance(value, str | bytes):
            return words
        held: Any = value
        parts: Iterable[tuple[Any, ...]] = held.items() if is_mapping else ((item,) for item in held)
        for items in parts:
            for item_check, item in zip(item_checks, items, strict=True):
                wanted = item_check(item)
                if wanted is not None:
                    return f"{words} whose items are each {wanted}"
        return None

    return check


def _union_check(checks: list[Check]) -> Check:
    def check(value: Any) -> str | None:
        wanted = []
        for alternative in checks:
            words = alternative(value)
            if words is None:
                return None
            wanted.append(words)
        return " or ".join(wanted)

    return check


def _annotated_check(base: Check | None, constraints: list[Constraint]) -> Check:
    def check(value: Any) -> str | None:
        wanted = base(value) if base is not None else None
        if wanted is not None:
            return wanted
        for constraint in constraints:
            if not constraint.check(value):
                return constraint.description
        return None

    return check


def _literal_check(values: tuple[Any, ...]) -> Check:
    words = "one of " + ", ".join(map(repr, values))

    def check(value: Any) -> str | None:
        fits = any(value == item and type(value) is type(item) for item in values)
        return None if fits else words

    return check


def _fixed_tuple_check(item_checks: list[Check | None]) -> Check:
    words = f"a tuple of {len(item_checks)}"

    def check(value: Any) -> str | None:
        if not isinstance(value, tuple) or len(value) != len(item_checks):
            return words
        for index, (item_check, item) in enumerate(zip(item_checks, value, strict=True)):
            wanted = item_check(item) if item_check is not None else None
            if wanted is not None:
                return f"{words} whose item {index} is {wanted}"
        return None

    return check


def _anything(_value: Any) -> str | None:
    return None


def check_for(annotation: Any) -> Check | None:
    """The check of values for a type annotation; None when the annotation allows everything."""
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return None
    if isinstance(annotation, NewType):
        return check_for(annotation.__supertype__)
    try:
        simple = _SIMPLE.get(annotation)
    except TypeError:  # an unhashable annotation, such as Annotated with a list in it
        simple = None
    if simple is not None:
        return simple
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        base = check_for(arguments[0])
        constraints = [item for item in arguments[1:] if isinstance(item, Constraint)]
        return _annotated_check(base, constraints) if constraints else base
    if origin is Literal:
        return _literal_check(arguments)
    if origin is Union or isinstance(annotation, types.UnionType):
        alternatives = [check_for(argument) for argument in arguments]
        if any(alternative is None for alternative in alternatives):
            return None
        return _union_check([item for item in alternatives if item is not None])
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _each(tuple, "a tuple", (check_for(arguments[0]) or _anything,))
        return _fixed_tuple_check([check_for(argument) for argument in arguments])
    if isinstance(origin, type):
        words = f"a {origin.__name__}"
        if issubclass(origin, Mapping) or (hasattr(origin, "__iter__") and len(arguments) == 1):
            return _each(origin, words, tuple(check_for(argument) or _anything for argument in arguments))
        return _instance_check(origin, words)
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            members = ", ".join(f"{annotation.__name__}.{name}" for name in annotation.__members__)
            return _instance_check(annotation, f"one of {members}")
        return _instance_check(annotation, f"a {annotation.__name__}")
    return None


def is_personal(annotation: Any) -> bool:
    """Whether a field's annotation is marked as personal data, also inside an optional or a container."""
    if get_origin(annotation) is Annotated and PERSONAL in get_args(annotation)[1:]:
        return True
    return any(is_personal(argument) for argument in get_args(annotation))


# --- the event classes ------------------------------------------------------------------------------------


_utc_now = partial(datetime.now, UTC)
_NO_METADATA: FrozenMapping[str, str] = FrozenMapping()


def _frozen_metadata(value: Any) -> Any:
    if type(value) is FrozenMapping or not isinstance(value, Mapping):
        return value
    return FrozenMapping(value)


def _as_utc(value: Any) -> Any:
    """An aware time in another zone means the same instant in UTC; anything else is left to the check."""
    if isinstance(value, datetime) and value.tzinfo is not UTC and value.utcoffset() is not None:
        try:
            return value.astimezone(UTC)
        except OverflowError:  # in UTC it would be before year 1 or after year 9999
            pass
    return value


@attrs.frozen
class _FieldCheck:
    name: str
    argument: str
    check: Check
    personal: bool


@attrs.frozen
class _Checks:
    """The checks of a class: ``fits`` is the fast answer for the usual event, ``fields`` the thorough one."""

    fields: tuple[_FieldCheck, ...]
    fits: Callable[[Any], bool]


def _exact_types(annotation: Any) -> set[Any] | None:
    """The types whose direct instances are all good values; None when there is more to the annotation."""
    if get_origin(annotation) is Union or isinstance(annotation, types.UnionType):
        alternatives = [_exact_types(argument) for argument in get_args(annotation)]
        known = [alternative for alternative in alternatives if alternative is not None]
        return set().union(*known) if len(known) == len(alternatives) else None
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        return None if any(isinstance(extra, Constraint) for extra in extras) else _exact_types(base)
    if annotation in (str, bytes, bool, int, UUID, date, time_of_day, timedelta, types.NoneType):
        return {annotation}
    return {annotation} if isinstance(annotation, type) and issubclass(annotation, enum.Enum) else None


def _compile_checks(hints: Mapping[str, Any], fields: Iterable[attrs.Attribute[Any]]) -> _Checks:
    """Compiles the checks into one expression over the fields, as attrs does for its own methods."""
    compiled: list[_FieldCheck] = []
    names: dict[str, Any] = {"datetime": datetime, "UTC": UTC, "FrozenMapping": FrozenMapping}
    terms = ["event.occurred_at.__class__ is datetime and event.occurred_at.tzinfo is UTC"]
    for index, field in enumerate(fields):
        annotation = hints.get(field.name, Any)
        check = check_for(annotation)
        if check is None:
            continue
        compiled.append(_FieldCheck(field.name, field.alias or field.name, check, is_personal(annotation)))
        value = f"event.{field.name}"
        if field.name == "metadata":
            terms.append(f"{value}.__class__ is FrozenMapping")
        exact = _exact_types(annotation)
        names[f"check{index}"] = check
        if exact and len(exact) <= 3:
            names |= {f"type{index}_{number}": exact_type for number, exact_type in enumerate(exact)}
            alternatives = [f"{value}.__class__ is type{index}_{number}" for number in range(len(exact))]
            terms.append(f"({' or '.join(alternatives)} or check{index}({value}) is None)")
        elif field.name != "occurred_at" or annotation is not datetime:
            terms.append(f"check{index}({value}) is None")
    fits: Callable[[Any], bool] = eval(f"lambda event: {' and '.join(terms)}", names)
    return _Checks(tuple(compiled), fits)


def _default_type(class_name: str) -> str:
    """UserRegistered -> user.registered; KYCPassed -> kyc.passed."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", class_name)
    return ".".join(word.lower() for word in words) or class_name.lower()


def _redacted(_value: object) -> str:
    return "<personal>"


def _define(cls: type[Any], hints: Mapping[str, Any] | None) -> type[Any]:
    """Makes the attrs class. ``hints`` is None when annotations cannot be resolved yet."""

    def hide_personal(_cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
        return [
            field.evolve(repr=_redacted)
            if (is_personal(hints.get(field.name)) if hints is not None else "Personal" in str(field.type))
            else field
            for field in fields
        ]

    cls.__hash__ = _hash_by_id  # type: ignore[assignment]
    return attrs.define(
        cls,
        slots=True,
        kw_only=True,
        eq=True,
        unsafe_hash=False,
        on_setattr=attrs.setters.frozen,
        field_transformer=hide_personal,
    )


def _hash_by_id(self: Any) -> int:
    return hash(self.event_id)


@overload
def event(cls: type[T], /) -> type[T]: ...
@overload
def event(*, type: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def event(cls: Any = None, /, *, type: str | None = None, version: int = 1) -> Any:
    """Makes a class of event: immutable, hashable, keyword-only, its field values checked when it is made.

    ``type`` is the event's type name (by default from the class name: UserRegistered is
    ``user.registered``). ``version`` is the version of its data, from 1.

    Raises ``TypeError`` when the class does not derive from ``Event`` or an annotation has a name that
    cannot be resolved, and ``ValueError`` when the version is not a positive int. Making an event raises
    ``InvalidEvent``, which lists every bad field value.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"the version of an event class is an int from 1, got {version!r}")
    frame = sys._getframe(1)
    build = partial(_build, event_type=type, version=version, namespace=frame.f_locals)
    return build if cls is None else build(cls)


def _build(
    cls: type[Any], *, event_type: str | None, version: int, namespace: Mapping[str, Any]
) -> type[Any]:
    if not (isinstance(cls, type) and issubclass(cls, Event)):
        raise TypeError(f"@event is for classes that derive from bus_core.Event, got {cls!r}")
    try:
        hints: dict[str, Any] | None = get_type_hints(cls, localns=dict(namespace), include_extras=True)
    except NameError:
        hints = None
    defined: Any = _define(cls, hints)
    defined.__event_type__ = event_type or _default_type(cls.__name__)
    defined.__event_version__ = version
    defined.__event_hints__ = hints
    defined.__event_checks__ = _compile_checks(hints, attrs.fields(defined)) if hints is not None else None
    return defined  # type: ignore[no-any-return]


def hints_of(cls: type[Event]) -> Mapping[str, Any]:
    """The resolved annotations of an event class; resolves forward references at the first use."""
    hints = cls.__event_hints__
    if hints is None:
        try:
            hints = get_type_hints(cls, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"{cls.__qualname__}: an annotation names {error.name!r}, which is not defined in its module"
            ) from error
        cls.__event_hints__ = hints
        cls.__event_checks__ = _compile_checks(hints, attrs.fields(cast(Any, cls)))
    return hints


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def _event_base(cls: type[T]) -> type[T]:
    """Makes ``Event`` itself, which ``@event`` cannot: it asks for a class derived from it."""
    defined: Any = _define(cls, {})
    defined.__event_hints__ = get_type_hints(defined, include_extras=True)
    defined.__event_checks__ = _compile_checks(defined.__event_hints__, attrs.fields(defined))
    return cast(type[T], defined)


@_event_base
class Event:
    """What happened: typed, immutable, and made by keywords. Subclass it and decorate with ``@event``.

    ``aggregate_id`` names what it happened to, and is the ordering key. ``event_id`` is a uuid7 and
    ``occurred_at`` the current time in UTC unless given. ``metadata`` holds short texts for tracing.
    Events compare by value and hash by ``event_id``. Making one raises ``InvalidEvent``.
    """

    __event_type__: ClassVar[str] = "event"
    __event_version__: ClassVar[int] = 1
    __event_hints__: ClassVar[Mapping[str, Any] | None] = None
    __event_checks__: ClassVar[_Checks | None] = None

    aggregate_id: UUID
    event_id: UUID = attrs.field(factory=uuid7)
    occurred_at: datetime = attrs.field(factory=_utc_now)
    metadata: Mapping[str, str] = attrs.field(default=_NO_METADATA)

    def __attrs_post_init__(self) -> None:
        checks = self.__event_checks__
        if checks is None or not checks.fits(self):
            self._settle()

    def _settle(self) -> None:
        """Brings the base fields into their one form, and then checks all fields, reporting every fault."""
        object.__setattr__(self, "occurred_at", _as_utc(self.occurred_at))
        object.__setattr__(self, "metadata", _frozen_metadata(self.metadata))
        hints_of(type(self))
        checks = self.__event_checks__
        faults: list[str] = []
        for field in checks.fields if checks else ():
            value = getattr(self, field.name)
            wanted = field.check(value)
            if wanted is not None:
                got = (
                    f"a {type(value).__name__} (personal value not shown)"
                    if field.personal
                    else _shown(value)
                )
                faults.append(f"{field.argument} must be {wanted}, got {got}")
        if faults:
            raise InvalidEvent(type(self).__name__, faults)

    def __delattr__(self, name: str) -> NoReturn:
        raise attrs.exceptions.FrozenAttributeError

    @property
    def type(self) -> str:
        """The event's type name; it belongs to the class."""
        return self.__event_type__


_TYPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

EventTypeName = Annotated[
    str,
    Constraint(
        "a type name of letters, digits, '.', '_' and '-'", lambda value: bool(_TYPE_NAME.fullmatch(value))
    ),
]


@event
class BaseEvent(Event):
    """The ad-hoc event: a type name and a mapping of JSON values, without a class of its own.

    ``BaseEvent("user.registered", user_id, data={"plan": "free"})``. An event whose class is not known
    to a subscriber arrives as one. ``data`` is frozen all the way down: its lists become tuples.
    """

    _type: EventTypeName = attrs.field(alias="type")
    data: Mapping[str, Any] = attrs.field(factory=FrozenMapping, converter=_deep_frozen)

    def __init__(
        self,
        type: str,
        aggregate_id: UUID,
        *,
        data: Mapping[str, Any] | None = None,
        event_id: UUID | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        given = {"event_id": event_id, "occurred_at": occurred_at, "metadata": metadata, "data": data}
        initialize: Any = self.__attrs_init__  # type: ignore[attr-defined]
        initialize(
            type=type,
            aggregate_id=aggregate_id,
            **{name: value for name, value in given.items() if value is not None},
        )

    @property
    def type(self) -> str:
        """The type name given when the event was made."""
        return self._type


def event_type_of(cls: type[Event]) -> str:
    """The type name of a class of event; ``BaseEvent`` has none of its own and gives ``event``."""
    return cls.__event_type__


def event_version_of(cls: type[Event]) -> int:
    """The data version of a class of event."""
    return cls.__event_version__

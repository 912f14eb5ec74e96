"""Typed, immutable events: the ``Event`` base, the ``@event`` decorator, and the untyped ``BaseEvent``.

An event class is an attrs class with slots that refuses assignments. Making an event is most of what
publishing one costs, so the checks of its fields are compiled into one expression per class.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import (
    Annotated,
    Any,
    ClassVar,
    NoReturn,
    TypeVar,
    cast,
    dataclass_transform,
    get_type_hints,
    overload,
)
from uuid import UUID

import attrs

from bus_core.errors import InvalidEvent
from bus_core.events.field_checks import Checks, Constraint, compile_checks, is_personal, shown
from bus_core.events.primitives import FrozenMapping, deep_frozen, uuid7

__all__ = ["NO_METADATA", "BaseEvent", "Event", "event", "event_type_of", "event_version_of", "hints_of"]

T = TypeVar("T")

_utc_now = partial(datetime.now, UTC)
NO_METADATA: FrozenMapping[str, str] = FrozenMapping()


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
    defined.__event_checks__ = compile_checks(hints, attrs.fields(defined)) if hints is not None else None
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
        cls.__event_checks__ = compile_checks(hints, attrs.fields(cast(Any, cls)))
    return hints


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def _event_base(cls: type[T]) -> type[T]:
    """Makes ``Event`` itself, which ``@event`` cannot: it asks for a class derived from it."""
    defined: Any = _define(cls, {})
    defined.__event_hints__ = get_type_hints(defined, include_extras=True)
    defined.__event_checks__ = compile_checks(defined.__event_hints__, attrs.fields(defined))
    return cast(type[T], defined)


class _TypeName:
    """The type name: of the class, and readable from it; only a ``BaseEvent`` has one of its own."""

    def __get__(self, instance: Event | None, owner: type[Event]) -> str:
        return instance._type if isinstance(instance, BaseEvent) else owner.__event_type__


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
    __event_checks__: ClassVar[Checks | None] = None

    aggregate_id: UUID
    event_id: UUID = attrs.field(factory=uuid7)
    occurred_at: datetime = attrs.field(factory=_utc_now)
    metadata: Mapping[str, str] = attrs.field(default=NO_METADATA)

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
                    f"a {type(value).__name__} (personal value not shown)" if field.personal else shown(value)
                )
                faults.append(f"{field.argument} must be {wanted}, got {got}")
        if faults:
            raise InvalidEvent(type(self).__name__, faults)

    def __delattr__(self, name: str) -> NoReturn:
        raise attrs.exceptions.FrozenAttributeError

    type = _TypeName()


EventTypeName = Annotated[
    str,
    Constraint.matching(
        "a type name of letters, digits, '.', '_' and '-'", "[A-Za-z0-9][A-Za-z0-9._-]*", longest=255
    ),
]


@event
class BaseEvent(Event):
    """The ad-hoc event: a type name and a mapping of JSON values, without a class of its own.

    ``BaseEvent("user.registered", user_id, data={"plan": "free"})``. An event whose class is not known
    to a subscriber arrives as one. ``data`` is frozen all the way down: its lists become tuples.
    """

    _type: EventTypeName = attrs.field(alias="type")
    data: Mapping[str, Any] = attrs.field(factory=FrozenMapping, converter=deep_frozen)

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


def event_type_of(cls: type[Event]) -> str:
    """The type name of a class of event; ``BaseEvent`` has none of its own and gives ``event``."""
    return cls.__event_type__


def event_version_of(cls: type[Event]) -> int:
    """The data version of a class of event."""
    return cls.__event_version__

"""Typed, immutable events: the ``Event`` base, the ``@event`` decorator, and the untyped ``BaseEvent``.

An event class is an attrs class with slots that refuses assignments. Making an event is most of what
publishing one costs, so the checks of its fields are compiled into one expression per class.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from keyword import iskeyword
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    ForwardRef,
    Generic,
    NoReturn,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    overload,
)
from uuid import UUID

import attrs

from bus_core.errors import InvalidEvent
from bus_core.events.annotations import evaluated, own_annotations, own_hints
from bus_core.events.ids import ANY_ID
from bus_core.events.marks import Constraint
from bus_core.events.models import (
    BASE_FIELDS,
    NO_METADATA,
    EventModel,
    could_not_travel,
    fault_of_default,
    key_of_field,
    model_of_fields,
)
from bus_core.events.plain_data import plain_fields, plain_value
from bus_core.events.primitives import FrozenMapping, uuid7
from bus_core.events.privacy import HIDDEN, hidden_values, shown, without
from bus_core.events.shapes import (
    AnyJson,
    Constrained,
    Field,
    Hidden,
    MappingOf,
    RecordShape,
    Scalar,
    has_personal_part,
)
from bus_core.events.values import write_datetime

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    AggregateId = TypeVarWithDefault("AggregateId", bound=UUID | int | str, default=UUID, covariant=True)
else:
    AggregateId = TypeVar("AggregateId")

__all__ = ["BaseEvent", "Event", "event", "event_type_of", "event_version_of", "model_of", "shown_fields"]

T = TypeVar("T")


def _utc_now() -> datetime:
    # Looked up at each call, so that a frozen clock of a test applies here, too.
    return datetime.now(UTC)


def _default_type(class_name: str) -> str:
    """The type name of a class name: UserRegistered -> user.registered; KYCPassed -> kyc.passed."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", class_name)
    return ".".join(word.lower() for word in words) or class_name.lower()


_TYPE_NAME: Final = Constraint.matching(
    "a type name of letters, digits, '.', '_' and '-'", "[A-Za-z0-9][A-Za-z0-9._-]*", longest=255
)

# --- making classes of events -----------------------------------------------------------------------------


@overload
def event(cls: type[T], /) -> type[T]: ...
@overload
def event(*, type: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def event(cls: Any = None, /, *, type: str | None = None, version: int = 1) -> Any:
    """Makes a class of event: immutable, hashable, keyword-only, its field values checked when it is made.

    ``type`` is the event's type name (by default from the class name: UserRegistered is
    ``user.registered``). ``version`` is the version of its data, from 1.

    Raises ``TypeError``, with each field and the reason, when the class does not derive from ``Event``, or
    when some adapter or serializer could not carry its events. A name in an annotation may be defined later;
    then the first use of the class raises. Raises ``ValueError`` when the version is not a positive int.

    Making an event freezes its values, and raises ``InvalidEvent``, which lists every bad one.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"the version of an event class is an int from 1, got {version!r}")
    frame = sys._getframe(1)
    build = partial(_build, event_type=type, version=version, namespace=frame.f_locals)
    return build if cls is None else build(cls)


class _NotDefinedYet(TypeError):
    """An annotation names something that is undefined, or not defined yet."""


def _build(
    cls: type[Any], *, event_type: str | None, version: int, namespace: Mapping[str, Any]
) -> type[Any]:
    if not (isinstance(cls, type) and issubclass(cls, Event)):
        raise TypeError(f"@event is for classes that derive from bus_core.Event, got {cls!r}")
    type_name = event_type or _default_type(cls.__name__)
    faults = _faults_of_body(cls)
    if not isinstance(type_name, str) or not _TYPE_NAME.check(type_name):
        faults.append(
            f"its type must be {_TYPE_NAME.description}, got {type_name!r}; give one: @event(type=...)"
        )
    if faults:
        raise could_not_travel(cls, faults)
    cls.__event_hints__ = None
    defined: Any = _define(cls, namespace)
    defined.__event_type__ = type_name
    defined.__event_version__ = version
    defined.__event_upcasters__ = {}
    own_post_init = defined.__attrs_post_init__
    if not hasattr(own_post_init, "checks_events"):
        defined.__attrs_post_init__ = _with_checks(own_post_init)
    return defined  # type: ignore[no-any-return]


_NOT_TO_DEFINE: Final = {
    **dict.fromkeys(
        BASE_FIELDS, "every event has it, and adapters, logs and other services rely on what it is"
    ),
    "type": "it names the class of the event on the wire; give it to @event(type=...), or rename the field",
    "__init__": "events are made of their fields when they are read; write a classmethod",
    "__new__": "events are made of their fields when they are read; write a classmethod",
    "__post_init__": "nobody calls it; name it __attrs_post_init__",
    "__setattr__": "events refuse assignments",
    "__delattr__": "events refuse deletions",
}
"""Names that an event class must not define, with the reasons."""

_IDS_REMEDY: Final = "; for ids of another type derive from Event[int] or Event[str]"


def _faults_of_body(cls: type[Any]) -> list[str]:
    """Names that the body of an event class, and of its other bases, must not define."""
    if "__attrs_attrs__" in vars(cls):
        return ["it is decorated already; @event alone makes an attrs class"]
    faults: list[str] = []
    fields = {*_annotated_in(cls), *_fields_of_bases(cls)}
    for base in cls.__mro__[: cls.__mro__.index(Event)]:
        if base is BaseEvent:
            return ["BaseEvent carries its data as it is, without fields; derive from Event"]
        if "__event_type__" in vars(base):  # checked when it was decorated
            continue
        annotated = _annotated_in(base)
        missing = [name for name, hint in annotated.items() if name not in fields and not _is_of_class(hint)]
        if missing:
            decorator = "@event" if issubclass(base, Event) else "@attrs.define(slots=False)"
            faults.append(f"{', '.join(missing)}: the class {base.__name__} lacks the decorator {decorator}")
        for name, reason in _NOT_TO_DEFINE.items():
            generated = name.startswith("__") and base is not cls
            if not generated and (name in annotated or name in vars(base)):
                remedy = _IDS_REMEDY if name == "aggregate_id" else ""
                faults.append(f"{name} cannot be defined again: {reason}{remedy}")
    for name in sorted(_fields_of_bases(cls) - {*BASE_FIELDS, *_annotated_in(cls)}):
        if name in vars(cls):
            faults.append(f"{name}: it would hide an inherited field; annotate it, for another default")
    return faults


def _is_of_class(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.startswith(("ClassVar", "typing.ClassVar"))
    return annotation is ClassVar or get_origin(annotation) is ClassVar


def _annotated_in(cls: type[Any]) -> Mapping[str, Any]:
    """The annotations in the body of a class; none where a name in them is not defined yet."""
    try:
        return own_annotations(cls)
    except NameError:
        return {}


def _fields_of_bases(cls: type[Any]) -> set[str]:
    bases = [base for base in cls.__mro__[1:] if attrs.has(base)]
    return {field.name for base in bases for field in attrs.fields(base)}


def _define(cls: type[Any], namespace: Mapping[str, Any]) -> Any:
    """Makes the attrs class, with its model, unless an annotation cannot be resolved yet."""
    model: EventModel | None = None

    def transform(_cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
        nonlocal model
        faults = list(_faults_of_fields(fields))
        if faults:
            raise could_not_travel(cls, faults)
        try:
            model = model_of_fields(cls, fields, *_hints_of(cls, namespace))
        except NameError:
            shared = [(field.name, fault_of_default(field)) for field in fields]
            faults = [f"{name}: {fault}" for name, fault in shared if fault is not None]
            if faults:
                raise could_not_travel(cls, faults) from None
            return [_discreet(cls, field) for field in fields]
        own = {field.name: field for field in model.own.fields}
        made: list[attrs.Attribute[Any]] = []
        for field in fields:
            known = own.get(field.name)
            if known is not None:
                field = field.evolve(default=known.default)  # in normal form
                if has_personal_part(known.shape):
                    field = _discreet(cls, field)
            made.append(field)
        return made

    try:
        defined = _attrs_class(cls, transform)
    except attrs.exceptions.UnannotatedAttributeError as error:
        raise could_not_travel(cls, [f"a field has no annotation ({error})"]) from None
    defined.__event_model__ = model
    if model is not None:
        model.own.cls = defined
    return defined


def _attrs_class(cls: type[Any], transform: Callable[..., Any] | None = None) -> Any:
    cls.__hash__ = _hash_by_id  # type: ignore[assignment]
    cls.__event_misfits__ = _not_compiled
    return attrs.define(
        cls,
        auto_attribs=True,
        slots=True,
        kw_only=True,
        eq=True,
        repr=False,
        unsafe_hash=False,
        on_setattr=attrs.setters.frozen,
        field_transformer=transform,
    )


def _hash_by_id(self: Any) -> int:
    return hash(self.event_id)


def _faults_of_fields(fields: list[attrs.Attribute[Any]]) -> Iterator[str]:
    keys: dict[str, str] = {}
    for field in fields:
        if field.name in BASE_FIELDS:
            continue
        key = key_of_field(field)
        if not key.isidentifier() or iskeyword(key) or key == "self":
            yield f"{field.name}: {key!r} cannot be the name of an argument; rename the field"
        elif hasattr(Event, field.name):
            yield f"{field.name}: it would hide the attribute that every event has; rename the field"
        elif key in _NOT_TO_DEFINE:
            yield f"{field.name}: an event has an argument {key!r} already; rename the field"
        elif key in keys:
            yield f"{field.name}: {keys[key]} is the argument {key!r} as well; rename one of them"
        keys[key] = field.name
        if not field.init:
            yield f"{field.name}: no argument gives it, so that it would not travel; make it a property"
        if field.on_setattr not in (None, attrs.setters.frozen):
            yield f"{field.name}: its on_setattr would let it be changed; leave it out"


def _discreet(cls: type[Any], field: attrs.Attribute[Any]) -> attrs.Attribute[Any]:
    """The field, with a validator and a converter whose errors hide its value."""
    name = key_of_field(field)

    def refused(doing: str, error: Exception) -> InvalidEvent:
        if isinstance(error, InvalidEvent):
            return error
        return InvalidEvent(
            cls.__name__, [f"{name} is refused by its {doing} ({type(error).__name__}; value not shown)"]
        )

    validator: Any = field.validator
    converter: Any = field.converter

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        try:
            validator(instance, attribute, value)
        except Exception as error:
            raise refused("validator", error) from None

    takes_more = isinstance(field.converter, attrs.Converter)

    def convert(*arguments: Any) -> Any:
        try:
            return (converter.converter if takes_more else converter)(*arguments)
        except Exception as error:
            raise refused("converter", error) from None

    discreet: Any = convert
    if takes_more:
        takes_self, takes_field = converter.takes_self, converter.takes_field
        discreet = attrs.Converter(convert, takes_self=takes_self, takes_field=takes_field)
    return field.evolve(
        validator=None if validator is None else validate,
        converter=None if converter is None else discreet,
    )


def _with_checks(post_init: Callable[[Any], None]) -> Callable[[Any], None]:
    """Runs a method of the class itself between two normalizations, because it may set values."""

    def __attrs_post_init__(self: Any) -> None:
        Event.__attrs_post_init__(self)
        post_init(self)
        Event.__attrs_post_init__(self)

    __attrs_post_init__.checks_events = True  # type: ignore[attr-defined]
    return __attrs_post_init__


def _hints_of(cls: type[Any], namespace: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
    """The annotations of a class, each resolved in the module of its class, and the annotation of its ids."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(Event)]):
        known = vars(base).get("__event_hints__")
        if known is None:
            known = own_hints(base, namespace if base is cls else None)
            if issubclass(base, Event) and base is not cls:
                base.__event_hints__ = known
        hints |= known
        if base is cls:
            cls.__event_hints__ = known
    return hints, _id_hint_of(cls, namespace)


def _id_hint_of(cls: type[Any], namespace: Mapping[str, Any] | None = None) -> Any:
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if not (isinstance(origin, type) and issubclass(origin, Event)):
            continue
        if origin is Event:
            hint = get_args(base)[0] if get_args(base) else UUID
            named = hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
            return evaluated(cls, {"aggregate_id": named}, namespace)["aggregate_id"]
        hint = _id_hint_of(origin)
        parameters: Any = getattr(origin, "__parameters__", ())
        return dict(zip(parameters, get_args(base), strict=False)).get(hint, hint)
    return UUID


def model_of(cls: type[Event[Any]]) -> EventModel:
    """The shapes of an event class's fields; resolves its annotations at the first use.

    Raises ``TypeError`` when a name in an annotation is not defined, or events could not travel.
    """
    model = cls.__event_model__
    if model is None:
        try:
            model = model_of_fields(cls, attrs.fields(cast(Any, cls)), *_hints_of(cls))
        except NameError as error:
            raise _NotDefinedYet(
                f"{cls.__qualname__}: an annotation names {error.name!r}, which is not defined in its module"
            ) from error
        cls.__event_model__ = model
    return model


# --- the base class ---------------------------------------------------------------------------------------


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attrs.field,))
def _event_base(cls: type[T]) -> type[T]:
    """Makes ``Event`` and ``BaseEvent``, which ``@event`` itself does not accept."""
    return cast(type[T], _attrs_class(cls))


class _TypeName:
    """The type name. It belongs to the class; only a ``BaseEvent`` has its own."""

    def __get__(self, instance: Event[Any] | None, owner: type[Event[Any]]) -> str:
        return instance._type if isinstance(instance, BaseEvent) else owner.__event_type__


def _not_compiled(_event: Event[Any]) -> tuple[str, ...] | None:
    """Replaces the compiled check until the first event of the class."""
    return None


def _normalize(event: Event[Any]) -> None:
    """Normalizes all values of an event: the first one of its class, or an unusual one."""
    _normalize_fields(event, None)
    cls: Any = type(event)
    cls.__event_misfits__ = model_of(cls).misfits


def _normalize_fields(event: Event[Any], names: Iterable[str] | None) -> None:
    """Normalizes values of an event, by default all.

    Raises ``InvalidEvent`` for a value that does not fit.
    """
    cls = type(event)
    faults = model_of(cls).normalize(event, names)
    if faults:
        raise InvalidEvent(cls.__name__, faults)


@_event_base
class Event(Generic[AggregateId]):
    """Something that happened: typed, immutable, made by keywords. Subclass it and decorate with ``@event``.

    ``aggregate_id`` names what it happened to, and is the ordering key: a UUID, or what a class says with
    ``Event[int]`` or ``Event[str]``. ``event_id`` is a uuid7 and ``occurred_at`` the current time in UTC
    unless given. ``metadata`` holds short texts for tracing. Events compare by value and hash by
    ``event_id``. Making one freezes its values, and raises ``InvalidEvent``.
    """

    __event_type__: ClassVar[str] = "event"
    __event_version__: ClassVar[int] = 1
    __event_upcasters__: ClassVar[dict[int, Any]] = {}
    __event_hints__: ClassVar[Mapping[str, Any] | None] = None
    __event_model__: ClassVar[EventModel | None] = None
    __event_misfits__ = _not_compiled

    aggregate_id: AggregateId
    event_id: UUID = attrs.field(factory=uuid7)
    occurred_at: datetime = attrs.field(factory=_utc_now)
    metadata: Mapping[str, str] = attrs.field(default=NO_METADATA)

    def __attrs_post_init__(self) -> None:
        try:
            names = self.__event_misfits__()
        except Exception:  # a rule that cannot judge a value: the thorough way reports it
            names = None
        if names is None:
            _normalize(self)
        elif names:
            _normalize_fields(self, names)

    __attrs_post_init__.checks_events = True  # type: ignore[attr-defined]

    def __delattr__(self, name: str) -> NoReturn:
        raise attrs.exceptions.FrozenAttributeError

    def __repr__(self) -> str:
        cls = type(self)
        parts = (f"{name}={text}" for name, text in shown_fields(self))
        return f"{cls.__qualname__.rpartition('>.')[2]}({', '.join(parts)})"

    def to_dict(self, *, personal: bool = True) -> dict[str, Any]:
        """The event as plain data that is ready for JSON.

        It has ``event_id``, ``type``, ``version``, ``aggregate_id``, ``occurred_at``, ``metadata``, and the
        class's own fields in ``data``, with values as on the wire. With ``personal=False`` there is
        ``<personal>`` in place of each value that is marked so.
        """
        model = model_of(type(self))
        data = plain_fields(model.own.fields, self, personal=personal)
        ready = self.aggregate_id.__class__ in (int, str)
        return {
            "event_id": str(self.event_id),
            "type": self.type,
            "version": self.__event_version__,
            "aggregate_id": self.aggregate_id if ready else str(self.aggregate_id),
            "occurred_at": write_datetime(self.occurred_at),
            "metadata": dict(self.metadata),
            "data": data,
        }

    type = _TypeName()


def shown_fields(event: Event[Any], *, of_base: bool = True) -> Iterator[tuple[str, str]]:
    """The name and the shown value of each field; ``of_base`` includes those of every event."""
    for field in attrs.fields(cast(Any, type(event))):
        if field.repr and (of_base or field.name not in BASE_FIELDS):
            yield key_of_field(field), _shown_field(event, field)


def _shown_field(event: Event[Any], field: attrs.Attribute[Any]) -> str:
    value = getattr(event, field.name)
    shape = model_of(type(event)).shape_of(field.name)
    if shape is None:
        return repr(value)
    if field.repr is _names_in:
        return _names_in(value)
    if callable(field.repr):
        return HIDDEN if has_personal_part(shape) else field.repr(value)
    return shown(shape, value)


def without_personal(text: str, event: Event[Any]) -> str:
    """A text with ``<personal>`` in place of the personal values of an event; see ``without``."""
    personal = model_of(type(event)).personal
    if not personal:
        return text
    hidden = [each for field in personal for each in hidden_values(field.shape, getattr(event, field.name))]
    return without(text, hidden) if hidden else text


def _names_in(data: Mapping[str, Any]) -> str:
    """The names in the data of an event without a class, whose values may all be personal."""
    return f"<{', '.join(data)}>" if data else "{}"


@_event_base
class BaseEvent(Event["UUID | str"]):
    """The ad-hoc event: a type name and a mapping of JSON values, without a class of its own.

    ``BaseEvent("user.registered", user_id, data={"plan": "free"})``. An event whose class is not known
    to a subscriber arrives as one. ``data`` is frozen all the way down: its lists become tuples. Its repr
    shows the names in ``data``, not the values, since any may be personal. ``aggregate_id`` is a UUID where
    the text is that of one, and otherwise a text.
    """

    _type: str = attrs.field(alias="type")
    data: Mapping[str, Any] = attrs.field(factory=FrozenMapping, repr=_names_in)

    def __init__(
        self,
        type: str,
        aggregate_id: UUID | str,
        *,
        data: Mapping[str, Any] | None = None,
        event_id: UUID | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.__attrs_init__(  # type: ignore[attr-defined]
            type=type,
            aggregate_id=aggregate_id,
            event_id=attrs.NOTHING if event_id is None else event_id,
            occurred_at=attrs.NOTHING if occurred_at is None else occurred_at,
            metadata=NO_METADATA if metadata is None else metadata,
            data=attrs.NOTHING if data is None else data,
        )

    def to_dict(self, *, personal: bool = True) -> dict[str, Any]:
        """The event as plain data; see ``Event.to_dict``.

        Any of its values may be personal: ``personal=False`` hides all in ``data``.
        """
        told = super().to_dict()
        data = plain_value(_ANY_DATA, self.data)
        return {**told, "data": data if personal else dict.fromkeys(data, HIDDEN)}


_ANY_DATA: Final = MappingOf(Scalar(str, str), AnyJson(), "Mapping")

Event.__event_model__ = model_of_fields(Event, (), {}, UUID)
BaseEvent.__event_model__ = EventModel(
    RecordShape(
        BaseEvent,
        (
            Field("_type", "type", Constrained(Scalar(str, str), (_TYPE_NAME,)), attrs.NOTHING),
            Field("data", "data", Hidden(_ANY_DATA), NO_METADATA),
        ),
    ),
    ANY_ID,
)


def event_type_of(cls: type[Event[Any]]) -> str:
    """The type name of a class of event; ``event`` for ``BaseEvent``, which has none."""
    return cls.__event_type__


def event_version_of(cls: type[Event[Any]]) -> int:
    """The data version of a class of event."""
    return cls.__event_version__

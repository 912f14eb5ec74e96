"""The model of an event class: the shapes of its fields and ids, and the checks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import attrs

from bus_core.events.checks import normalizer_of
from bus_core.events.compiled_checks import CheckCompiler
from bus_core.events.faults import Unfit
from bus_core.events.ids import IdForm, id_form_of
from bus_core.events.marks import deprecation_of
from bus_core.events.primitives import FrozenMapping
from bus_core.events.privacy import bounded
from bus_core.events.records import fields_of_record, is_record
from bus_core.events.shape_builder import ShapeBuilder
from bus_core.events.shapes import (
    Field,
    MappingOf,
    RecordShape,
    Scalar,
    Shape,
    UnsupportedType,
    has_personal_part,
)
from bus_core.events.values import Normalize

__all__ = [
    "BASE_FIELDS",
    "NO_METADATA",
    "EventModel",
    "could_not_travel",
    "fault_of_default",
    "key_of_field",
    "model_of_fields",
    "normalize_occurred_at",
]

NO_METADATA: FrozenMapping[str, str] = FrozenMapping()

BASE_FIELDS: Final = ("aggregate_id", "event_id", "occurred_at", "metadata")

_EVENT_ID: Final = Scalar(UUID, UUID)
_OCCURRED_AT: Final = Scalar(datetime, datetime)
_METADATA: Final = MappingOf(Scalar(str, str), Scalar(str, str), "Mapping")

_MUTABLE: Final = (list, dict, set, bytearray)


@attrs.define(eq=False)
class EventModel:
    """An event class: ``own`` are the fields that it adds to those of every event, and ``id`` its ids.

    ``misfits`` names the fields of an event that are not in normal form; ``normalize`` normalizes them.
    """

    own: RecordShape
    id: IdForm
    _parts: dict[str, tuple[str, Shape | None, Normalize]] = attrs.field(factory=dict)
    _misfits: Callable[[Any], tuple[str, ...]] | None = None
    _personal: tuple[Field, ...] | None = None

    @property
    def personal(self) -> tuple[Field, ...]:
        """The class's own fields with a part that is marked as personal; computed at the first use."""
        if self._personal is None:
            self._personal = tuple(field for field in self.own.fields if has_personal_part(field.shape))
        return self._personal

    def shape_of(self, attribute: str) -> Shape | None:
        """The shape of one of the class's own fields; None for any other attribute."""
        return next((field.shape for field in self.own.fields if field.name == attribute), None)

    @property
    def misfits(self) -> Callable[[Any], tuple[str, ...]]:
        """The fields of an event that are not in normal form; compiled at the first use."""
        if self._misfits is None:
            self._misfits = self._compiled()
        return self._misfits

    def normalize(self, event: Any, names: Iterable[str] | None = None) -> list[str]:
        """Normalizes fields of an event, by default all. Returns their faults."""
        faults: list[str] = []
        parts = self._normalizers()
        for name in parts if names is None else names:
            argument, shape, normalize = parts[name]
            value = getattr(event, name)
            try:
                normalized = normalize(value)
            except Unfit as error:
                personal = shape is not None and has_personal_part(shape)
                got = f"a {type(value).__name__} (personal value not shown)" if personal else bounded(value)
                faults += [f"{argument}{path} {words}, got {got}" for path, words in error.faults]
            except RecursionError:
                faults.append(f"{argument} must be nested less deeply")
            else:
                if normalized is not value:
                    object.__setattr__(event, name, normalized)
        return faults

    def _normalizers(self) -> dict[str, tuple[str, Shape | None, Normalize]]:
        """The argument of each field, its shape where it is one of the class's own, and its normalizer."""
        if not self._parts:
            self._parts = {
                "aggregate_id": ("aggregate_id", None, self.id.normalize),
                "event_id": ("event_id", _EVENT_ID, normalizer_of(_EVENT_ID)),
                "occurred_at": ("occurred_at", _OCCURRED_AT, normalize_occurred_at),
                "metadata": ("metadata", _METADATA, normalizer_of(_METADATA)),
                **{
                    field.name: (field.key, field.shape, normalizer_of(field.shape))
                    for field in self.own.fields
                },
            }
        return self._parts

    def _compiled(self) -> Callable[[Any], tuple[str, ...]]:
        compiler = CheckCompiler()
        if self.id.exact is not None:
            id_expression = f"value.__class__ is {compiler.name(self.id.exact)}"
        else:
            id_expression = f"{compiler.name(_is_normalized_by(self.id.normalize))}(value)"
        metadata = compiler.expression(_METADATA, "value")
        expressions = {
            "aggregate_id": id_expression,
            "event_id": compiler.expression(_EVENT_ID, "value"),
            "occurred_at": f"value.__class__ is {compiler.name(datetime)} and value.tzinfo is UTC",
            "metadata": f"value is {compiler.name(NO_METADATA)} or {metadata}",
        }
        expressions |= {field.name: compiler.expression(field.shape, "value") for field in self.own.fields}
        return compiler.misfits(expressions)


def _is_normalized_by(normalize: Normalize) -> Callable[[Any], bool]:
    def is_normalized(value: Any) -> bool:
        try:
            return normalize(value) is value
        except Unfit:
            return False

    return is_normalized


_normalize_datetime: Final = normalizer_of(_OCCURRED_AT)


def normalize_occurred_at(value: Any) -> datetime:
    """Converts an aware time in another zone to the same instant in UTC."""
    normalized: datetime = _normalize_datetime(value)
    if normalized.tzinfo is UTC:
        return normalized
    try:
        return normalized.astimezone(UTC)
    except OverflowError:  # in UTC it would be before year 1 or after year 9999
        return normalized


# --- from attrs fields ------------------------------------------------------------------------------------


def key_of_field(field: attrs.Attribute[Any]) -> str:
    """The constructor's argument for a field, which is also its key in JSON."""
    return field.alias or field.name.lstrip("_")


def model_of_fields(
    cls: type[Any], fields: Iterable[attrs.Attribute[Any]], hints: Mapping[str, Any], id_hint: Any
) -> EventModel:
    """The model of a class. Raises ``TypeError`` with every field that could not travel, and the reasons.

    Raises ``NameError`` when an alias names something that is not defined yet.
    """
    builder = ShapeBuilder(is_record, fields_of_record)
    faults: list[str] = []
    own: list[Field] = []
    for field in fields:
        if field.name in BASE_FIELDS:
            continue
        key = key_of_field(field)
        try:
            shape = builder.shape(hints[field.name])
            default, advice = _normalized_default(field, shape), deprecation_of(hints[field.name])
            own.append(Field(field.name, key, shape, default, advice))
        except (UnsupportedType, RecursionError) as error:
            faults.append(f"{field.name}: {error}")
    id_form: IdForm | None = None
    try:
        id_form = id_form_of(id_hint, builder.shape(id_hint))
    except UnsupportedType as error:
        faults.append(f"aggregate_id: {error}")
    if faults or id_form is None:
        raise could_not_travel(cls, faults)
    return EventModel(RecordShape(cls, tuple(own)), id_form)


def could_not_travel(cls: type[Any], faults: list[str]) -> TypeError:
    """The error of a class whose events could not be published, written, read and handled everywhere."""
    return TypeError(f"events of {cls.__qualname__} could not travel: {'; '.join(faults)}")


def fault_of_default(field: attrs.Attribute[Any]) -> str | None:
    """The reason to refuse a default, whatever the type of the field is."""
    default = field.default
    if not isinstance(default, _MUTABLE) or isinstance(default, FrozenMapping):
        return None
    kind = type(default).__name__
    instead = {"list": "()", "dict": "FrozenMapping()", "set": "frozenset()"}.get(kind, "b''")
    return (
        f"all events would share its default, a {kind} that can be changed; write {instead} "
        f"for an empty one, or attrs.field(factory={kind})"
    )


def _normalized_default(field: attrs.Attribute[Any], shape: Shape) -> Any:
    default = field.default
    if default is attrs.NOTHING or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default
    fault = fault_of_default(field)
    if fault is not None:
        raise UnsupportedType(fault)
    if field.converter is not None:
        return default
    try:
        return normalizer_of(shape)(default)
    except Unfit as error:
        told = "; ".join(f"{path} {words}".strip() for path, words in error.faults)
        raise UnsupportedType(f"its default {told}") from None

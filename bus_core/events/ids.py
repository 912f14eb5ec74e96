"""Aggregate ids: UUIDs unless an event class says ``Event[int]`` or ``Event[str]``. They travel as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal
from uuid import UUID

import attrs

from bus_core.events.checks import normalizer_of
from bus_core.events.faults import unfit
from bus_core.events.primitives import text_of_uuid, uuid_of_int
from bus_core.events.shape_builder import name_of
from bus_core.events.shapes import Constrained, Scalar, Shape, UnsupportedType, is_personal, plain
from bus_core.events.values import Normalize

__all__ = [
    "ANY_ID",
    "UUID_ID",
    "IdForm",
    "id_form_of",
    "read_uuid",
    "text_of_aggregate",
    "text_of_id",
    "written_uuid",
]

_LARGEST: Final = 1 << 128
_bytes_of_hex: Final = bytes.fromhex
_int_of_bytes: Final = int.from_bytes
_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,39}")


@attrs.frozen(eq=False)
class IdForm:
    """The aggregate ids of a class: ``normalize`` checks one, ``read`` makes one from its text.

    Both raise ``Unfit``. The text of an id is ``str(id)``. Ids directly of the class ``exact`` need no check;
    it is None where each id needs one.
    """

    kind: Literal["uuid", "int", "text", "any"]
    normalize: Normalize
    read: Callable[[Any], Any]
    exact: type[Any] | None = None


def read_uuid(value: Any) -> UUID:
    """A UUID from its hyphenated form. ``UUID(text)`` also accepts braces, and is four times slower."""
    if value.__class__ is not str or len(value) != 36 or value[8:24:5] != "----":
        raise unfit("a UUID")
    try:
        number = _bytes_of_hex(value.replace("-", ""))
    except ValueError:
        raise unfit("a UUID") from None
    if len(number) != 16:  # a dash, or a space, in place of a digit
        raise unfit("a UUID")
    return uuid_of_int(_int_of_bytes(number))


def written_uuid(text: str) -> UUID | None:
    """The UUID with exactly this text; None for any other text."""
    if len(text) != 36 or text != text.lower():
        return None
    try:
        return read_uuid(text)
    except ValueError:
        return None


def text_of_id(value: UUID | int | str) -> str:
    """The text of an id, ``str(value)``."""
    return text_of_uuid(value) if type(value) is UUID else str(value)


_texts: Final[dict[int, str]] = {}
_MOST_TEXTS: Final = 4096


def text_of_aggregate(value: UUID | int | str) -> str:
    """The text of an aggregate's id, remembered because more events of the aggregate are likely."""
    if type(value) is not UUID:
        return str(value)
    number = value.int
    text = _texts.get(number)
    if text is None:
        if len(_texts) >= _MOST_TEXTS:
            _texts.clear()
        text = _texts[number] = text_of_uuid(value)
    return text


def _normalize_uuid(value: Any) -> UUID:
    if not isinstance(value, UUID):
        raise unfit("a UUID")
    return value


_normalize_str: Final = normalizer_of(Scalar(str, str))


def _normalize_text(value: Any) -> str:
    text: str = _normalize_str(value)
    if not text:
        raise unfit("a text that is not empty")
    return text


def _normalize_int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise unfit("an int")
    if not -_LARGEST < value < _LARGEST:
        raise unfit("an int of at most 128 bits")
    return int.__int__(value)


def _read_int(value: Any) -> int:
    if type(value) is not str or _INT.fullmatch(value) is None:
        raise unfit("an int as text")
    return _normalize_int(int(value))


def _normalize_any(value: Any) -> UUID | str:
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str):
        raise unfit("a UUID or a str")
    return written_uuid(value) or _normalize_text(value)


UUID_ID: Final = IdForm("uuid", _normalize_uuid, read_uuid, exact=UUID)

ANY_ID: Final = IdForm("any", _normalize_any, _normalize_any, exact=UUID)
"""The ids of events without a known class: a UUID if the text is canonical, otherwise the text."""


def id_form_of(hint: Any, shape: Shape) -> IdForm:
    """The ids of that type, such as a ``NewType`` of ``int``; raises ``UnsupportedType``."""
    inner = plain(shape)
    if is_personal(shape):
        raise UnsupportedType("is personal, but ids are shown in logs and commands; use another id")
    if not isinstance(inner, Scalar) or inner.base not in (UUID, int, str):
        raise UnsupportedType(f"is UUID, int, str or a type made of one of them, not {name_of(hint)}")
    if inner is shape and inner.cls is UUID:
        return UUID_ID
    bounded, read = {UUID: (_normalize_uuid, read_uuid), int: (_normalize_int, _read_int)}.get(
        inner.base, (_normalize_text, _normalize_text)
    )
    normalize_shape = normalizer_of(shape)

    def normalize(value: Any) -> Any:
        normalized = normalize_shape(value)
        bounded(normalized)
        return normalized

    def read_id(text: Any) -> Any:
        value = read(text)
        if inner.cls is inner.base:
            return normalize(value) if isinstance(shape, Constrained) else value
        try:
            made = inner.cls(value)
        except Exception:
            raise unfit(f"a valid {inner.cls.__name__}") from None
        return normalize(made)

    kind: Any = {UUID: "uuid", int: "int"}.get(inner.base, "text")
    return IdForm(kind, normalize, read_id)

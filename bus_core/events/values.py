"""Single values in normal form: texts, numbers, times, and JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, Final

from bus_core.events.faults import Unfit, unfit, within
from bus_core.events.primitives import FrozenMapping

__all__ = [
    "DECIMAL_RANGE",
    "NORMALIZERS",
    "Normalize",
    "frozen_json",
    "has_plain_offset",
    "is_frozen_json",
    "is_text",
    "write_date",
    "write_datetime",
    "write_time",
    "write_timedelta",
]

Normalize = Callable[[Any], Any]
"""Returns a value in normal form; raises ``Unfit``."""

DECIMAL_RANGE: Final = 6144
"""The bounds of IEEE 754 decimal128. Without a bound, a few characters make a number of megabytes."""

_DEEPEST: Final = 500
"""The deepest nesting that serializers accept."""


def is_text(text: str) -> bool:
    """True when UTF-8 can encode a text: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def normalize_str(value: Any) -> str:
    if not isinstance(value, str):
        raise unfit("a str")
    text = value if value.__class__ is str else str.__str__(value)
    if not (text.isascii() or is_text(text)):
        raise unfit("a text without lone surrogates, which are no characters")
    return text


def _normalize_int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise unfit("an int")
    return int.__int__(value)


def normalize_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise unfit("a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise unfit("a finite number (JSON has no NaN or infinity)")
        return float.__float__(value)
    try:
        number = float(value)
    except OverflowError:
        raise unfit("a number in the range of a float") from None
    if number != value:
        raise unfit("a number that a float can hold exactly (annotate the field with int, or float | int)")
    return number


def _normalize_decimal(value: Any) -> Decimal:
    if not isinstance(value, Decimal):
        raise unfit("a Decimal")
    if not value.is_finite():
        raise unfit("a finite Decimal")
    if abs(value.adjusted()) > DECIMAL_RANGE:
        raise unfit(f"a finite Decimal with an exponent of at most {DECIMAL_RANGE}")
    return value


def _normalize_datetime(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise unfit("a datetime")
    zone = value.tzinfo
    if zone is UTC:
        return value
    try:
        offset = value.utcoffset()
        if offset is None:
            raise unfit(
                "an aware datetime, such as datetime.now(UTC); this one is naive (it has no time zone)"
            )
        if offset.seconds % 60 or offset.microseconds:  # RFC 3339 has no such offsets: the instant is kept
            return value.astimezone(UTC)
    except (OverflowError, NotImplementedError):
        raise unfit("a time that exists in UTC") from None
    # A zone travels as its offset, without its name.
    return value if zone.__class__ is timezone else value.replace(tzinfo=timezone(offset), fold=0)


def has_plain_offset(value: datetime) -> bool:
    """True when a time has an offset of whole minutes, and no named zone."""
    zone = value.tzinfo
    if zone.__class__ is not timezone:
        return False
    offset = value.utcoffset()
    return offset is not None and not (offset.seconds % 60 or offset.microseconds)


def _normalize_date(value: Any) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise unfit("a date")
    return value


def _normalize_time(value: Any) -> time_of_day:
    if not isinstance(value, time_of_day):
        raise unfit("a time")
    if value.tzinfo is not None and value.utcoffset() is None:
        raise unfit("a time without a zone, or with a fixed offset")
    return value


NORMALIZERS: Final[Mapping[Any, Normalize]] = {
    str: normalize_str,
    int: _normalize_int,
    float: normalize_float,
    Decimal: _normalize_decimal,
    datetime: _normalize_datetime,
    date: _normalize_date,
    time_of_day: _normalize_time,
}


_ATOMS: Final = frozenset({bool, int, type(None)})
"""The classes of JSON values that are always in normal form."""


def frozen_json(value: Any, room: int = _DEEPEST) -> Any:
    """A JSON value with frozen mappings and with tuples for lists; raises ``Unfit`` for anything else."""
    kind = value.__class__
    if kind in _ATOMS or (kind is str and value.isascii()):
        return value
    if isinstance(value, str):
        return normalize_str(value)
    if isinstance(value, float):
        return normalize_float(value)
    if isinstance(value, int):
        return int.__int__(value)
    if not room:
        raise unfit(f"nested less than {_DEEPEST} levels")
    if kind is dict or isinstance(value, Mapping):
        made: dict[str, Any] = {}
        try:
            for key, item in value.items():
                if not isinstance(key, str):
                    raise unfit("under a key that is a text, as in JSON")
                name = key if key.__class__ is str and key.isascii() else normalize_str(key)
                made[name] = frozen_json(item, room - 1)
        except Unfit as error:
            raise within("[...]", error) from None
        return FrozenMapping(made)
    if isinstance(value, list | tuple):
        items: list[Any] = []
        try:
            for item in value:
                items.append(frozen_json(item, room - 1))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        return tuple(items)
    raise unfit("JSON values only: None, bool, int, finite float, str, list, tuple, dict with str keys")


def is_frozen_json(value: Any, room: int = _DEEPEST) -> bool:
    """True when ``frozen_json`` would return the value itself."""
    kind = value.__class__
    if kind in _ATOMS:
        return True
    if kind is str:
        return value.isascii() or is_text(value)
    if kind is float:
        return math.isfinite(value)
    if not room:
        return False
    if kind is FrozenMapping:
        for key, item in value.items():
            if key.__class__ is not str or not (key.isascii() or is_text(key)):
                return False
            if not (item.__class__ in _ATOMS or is_frozen_json(item, room - 1)):
                return False
        return True
    if kind is tuple:
        for item in value:  # noqa: SIM110 - all() and a generator take twice the time
            if not (item.__class__ in _ATOMS or is_frozen_json(item, room - 1)):
                return False
        return True
    return False


# --- as texts in JSON -------------------------------------------------------------------------------------

write_date: Final = date.isoformat
write_time: Final = time_of_day.isoformat


def write_datetime(value: datetime) -> str:
    """The text of a time by RFC 3339. An event's times have offsets of whole minutes."""
    if value.tzinfo is UTC:  # in two parts, because isoformat() asks the zone for its offset, which is slow
        return f"{write_date(value)}T{write_time(value.time())}Z"
    return value.isoformat()


def write_timedelta(value: timedelta) -> str:
    """An ISO 8601 duration of days and seconds."""
    sign = "-" if value < timedelta() else ""
    value = abs(value)
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"

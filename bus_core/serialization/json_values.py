"""Readers and writers of single JSON values: identifiers, times, durations, decimals, bytes, any JSON.

``read_*`` take the values of a JSON reader and never coerce: ``"1"`` is not an int, ``1.9`` is not 1, and a
bool is no number. ``writers`` take checked values and return JSON text. Both raise ``Unfit``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Final
from uuid import UUID

from bus_core.events.faults import unfit
from bus_core.events.ids import read_uuid
from bus_core.events.primitives import FrozenMapping, text_of_uuid
from bus_core.events.values import DECIMAL_RANGE, write_date, write_datetime, write_time, write_timedelta
from bus_core.serialization.options import JsonOptions

__all__ = [
    "READERS",
    "Writer",
    "read_bool",
    "read_datetime",
    "read_int",
    "read_str",
    "writers",
]

# --- reading ----------------------------------------------------------------------------------------------

_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}"
    r"(?:\.[0-9]{1,64})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?)?"
)
_DURATION = re.compile(
    r"(-?)P(?=.)(?:([0-9]{1,9})W)?(?:([0-9]{1,9})D)?"
    r"(?:T(?=.)(?:([0-9]{1,12})H)?(?:([0-9]{1,12})M)?(?:([0-9]{1,12})(?:\.([0-9]{1,64}))?S)?)?"
)
_DECIMAL = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,5})?")


def read_str(value: Any) -> str:
    """A text."""
    if type(value) is not str:
        raise unfit("a str")
    return value


def read_bool(value: Any) -> bool:
    """A bool."""
    if type(value) is not bool:
        raise unfit("a bool")
    return value


def read_int(value: Any) -> int:
    """A whole number; a bool is none."""
    if type(value) is not int:
        raise unfit("an int")
    return value


def read_float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise unfit("a number in the range of a float") from None
    raise unfit("a number")


def read_none(value: Any) -> None:
    if value is not None:
        raise unfit("null")


def read_datetime(value: Any) -> datetime:
    """A time of RFC 3339, section 5.6: any number of fraction digits, cut to microseconds; the offset is
    required.
    """
    if type(value) is not str or _DATETIME.fullmatch(value) is None:
        raise unfit("an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z")
    try:
        return datetime.fromisoformat(value if value[-1] != "z" else value.upper())
    except ValueError:
        raise unfit("a time that exists") from None


def read_date(value: Any) -> date:
    if type(value) is not str or _DATE.fullmatch(value) is None:
        raise unfit("a date, such as 2024-05-01")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise unfit("a date that exists") from None


def read_time(value: Any) -> time_of_day:
    if type(value) is not str or _TIME.fullmatch(value) is None:
        raise unfit("a time of day, such as 12:00:00")
    try:
        return time_of_day.fromisoformat(value.upper())
    except ValueError:
        raise unfit("a time of day that exists") from None


def read_timedelta(value: Any) -> timedelta:
    match = _DURATION.fullmatch(value) if type(value) is str else None
    if match is None:
        raise unfit("an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as P1DT2H")
    sign, weeks, days, hours, minutes, seconds, fraction = match.groups()
    try:
        made = timedelta(
            weeks=int(weeks or 0),
            days=int(days or 0),
            hours=int(hours or 0),
            minutes=int(minutes or 0),
            seconds=int(seconds or 0),
            microseconds=int(f"{(fraction or '0')[:6]:0<6}"),
        )
        return -made if sign else made
    except OverflowError:
        raise unfit("a duration of less than a thousand million days") from None


def read_decimal(value: Any) -> Decimal:
    if type(value) is not str or _DECIMAL.fullmatch(value) is None:
        raise unfit("a decimal number as text")
    number = Decimal(value)
    if abs(number.adjusted()) > DECIMAL_RANGE:
        raise unfit(f"a finite Decimal with an exponent of at most {DECIMAL_RANGE}")
    return number


def read_bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise unfit("base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise unfit("base64 text") from None


Reader = Callable[[Any], Any]
Writer = Callable[[Any], str]

READERS: dict[Any, Reader] = {
    str: read_str,
    bool: read_bool,
    int: read_int,
    float: read_float,
    type(None): read_none,
    UUID: read_uuid,
    datetime: read_datetime,
    date: read_date,
    time_of_day: read_time,
    timedelta: read_timedelta,
    Decimal: read_decimal,
    bytes: read_bytes,
}
"""The readers of simple types."""


# --- writing ----------------------------------------------------------------------------------------------


def _write_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_BOOLS: Final = {True: "true", False: "false"}


def _quoted(write: Callable[[Any], str]) -> Writer:
    """Matches texts without any character that JSON escapes."""
    return lambda value: f'"{write(value)}"'


def writers(limits: JsonOptions, text: Writer) -> dict[Any, Writer]:
    """The writers of simple types, and under ``Any`` the writer of JSON values.

    ``text`` writes the values that Python's own encoder takes.
    """
    too_large = 10 ** (limits.max_digits - 1)
    text_of_int = int.__repr__

    def bounded(value: int) -> int:
        if not -too_large < value < too_large:
            raise unfit(f"an int of less than {limits.max_digits} digits")
        return value

    def plain(value: Any, room: int = limits.max_depth) -> Any:
        kind = value.__class__
        if kind is int:
            return bounded(value)
        if kind is tuple:
            if not room:
                raise unfit(f"nested less than {limits.max_depth} levels")
            return [plain(item, room - 1) for item in value]
        if kind is FrozenMapping:
            if not room:
                raise unfit(f"nested less than {limits.max_depth} levels")
            return {key: plain(item, room - 1) for key, item in value.items()}
        return value

    return {
        str: encode_basestring,
        bool: _BOOLS.__getitem__,
        int: lambda value: text_of_int(bounded(value)),
        float: text,
        type(None): lambda _value: "null",
        UUID: _quoted(text_of_uuid),
        datetime: _quoted(write_datetime),
        date: _quoted(write_date),
        time_of_day: _quoted(write_time),
        timedelta: _quoted(write_timedelta),
        Decimal: _quoted(str),
        bytes: _quoted(_write_base64),
        Any: lambda value: text(plain(value)),
    }

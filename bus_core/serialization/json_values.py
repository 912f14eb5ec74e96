"""How single values are written in JSON: identifiers, times, durations, decimals, bytes, and JSON itself.

``read_*`` take what a JSON reader made and never coerce: ``"1"`` is not an int, ``1.9`` is not 1, and a
bool is no number. ``write_*`` take checked values and give JSON values. Both raise ``Unfit``.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any
from uuid import UUID

from bus_core.events.primitives import uuid_of_int
from bus_core.serialization.options import JsonOptions

__all__ = [
    "READERS",
    "Fault",
    "Unfit",
    "read_bool",
    "read_datetime",
    "read_int",
    "read_json",
    "read_str",
    "read_uuid",
    "unfit",
    "write_datetime",
    "writers",
]

Fault = tuple[str, str]
"""Where, inside the value (``.street``, ``[3]``, or nothing), and what is wrong there."""


class Unfit(ValueError):
    """A value does not fit its type. ``faults`` never quotes the value."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{path or 'the value'} {words}" for path, words in faults))


def unfit(wanted: str) -> Unfit:
    """One fault: the value must be ``wanted``."""
    return Unfit([("", f"must be {wanted}")])


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
_DECIMAL_RANGE = 6144  # of IEEE 754 decimal128; without a bound a few characters make a number of megabytes


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
    """A whole number, which a bool is not."""
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


def read_uuid(value: Any) -> UUID:
    """A UUID in its canonical form. ``UUID(text)`` would also take braces, and is four times slower."""
    if type(value) is not str or len(value) != 36 or value[8:24:5] != "----":
        raise unfit("a UUID")
    try:
        number = bytes.fromhex(value.replace("-", ""))
    except ValueError:
        raise unfit("a UUID") from None
    if len(number) != 16:  # a dash, or a space, in place of a digit
        raise unfit("a UUID")
    return uuid_of_int(int.from_bytes(number))


def read_datetime(value: Any) -> datetime:
    """RFC 3339, section 5.6: any number of fraction digits, cut to microseconds; an offset is required."""
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
    return _bounded_decimal(Decimal(value))


def _bounded_decimal(number: Decimal) -> Decimal:
    if not number.is_finite() or abs(number.adjusted()) > _DECIMAL_RANGE:
        raise unfit(f"a finite Decimal with an exponent of at most {_DECIMAL_RANGE}")
    return number


def read_bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise unfit("base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise unfit("base64 text") from None


def read_json(value: Any) -> Any:
    """Whatever JSON holds."""
    return value


Reader = Callable[[Any], Any]

READERS: dict[Any, tuple[str, Reader]] = {
    str: ("text", read_str),
    bool: ("bool", read_bool),
    int: ("int", read_int),
    float: ("float", read_float),
    type(None): ("null", read_none),
    UUID: ("text", read_uuid),
    datetime: ("text", read_datetime),
    date: ("text", read_date),
    time_of_day: ("text", read_time),
    timedelta: ("text", read_timedelta),
    Decimal: ("text", read_decimal),
    bytes: ("text", read_bytes),
}
"""For each simple type the kind of its JSON values, and what reads them."""


# --- writing ----------------------------------------------------------------------------------------------


def write_datetime(value: datetime) -> str:
    """RFC 3339. An offset that is no whole number of minutes has no such form: then the time is in UTC."""
    if value.tzinfo is UTC:
        return value.isoformat()[:-6] + "Z"  # in place of +00:00
    text = value.isoformat()
    if text[-6] in "+-":
        return text
    offset = value.utcoffset()
    if offset is None:
        raise unfit("an aware datetime")
    return (value.replace(tzinfo=None) - offset).isoformat() + "Z"


def write_timedelta(value: timedelta) -> str:
    sign = "-" if value < timedelta() else ""
    value = abs(value)
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"


def _write_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _write_decimal(value: Decimal) -> str:
    return str(_bounded_decimal(value))


def writers(limits: JsonOptions) -> dict[Any, Callable[[Any], Any]]:
    """For each simple type what writes its values; types that JSON has are not in it, except numbers."""
    too_large = 10 ** (limits.max_digits - 1)
    json_words = "JSON values only: None, bool, int, finite float, str, list, tuple, dict with str keys"

    def write_int(value: int) -> int:
        if not -too_large < value < too_large:
            raise unfit(f"an int of less than {limits.max_digits} digits")
        return value

    def write_float(value: float) -> float:
        number = read_float(value) if type(value) is int else float(value)
        if not math.isfinite(number):
            raise unfit("a finite number (JSON has no NaN or infinity)")
        return number

    def write_json(value: Any, room: int = limits.max_depth) -> Any:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return write_int(value)
        if isinstance(value, float):
            return write_float(value)
        if not room:
            raise unfit(f"nested less than {limits.max_depth} levels")
        if isinstance(value, list | tuple):
            return [write_json(item, room - 1) for item in value]
        if isinstance(value, Mapping) and all(type(key) is str for key in value):
            return {key: write_json(item, room - 1) for key, item in value.items()}
        raise unfit(json_words)

    return {
        int: write_int,
        float: write_float,
        UUID: str,
        datetime: write_datetime,
        date: date.isoformat,
        time_of_day: time_of_day.isoformat,
        timedelta: write_timedelta,
        Decimal: _write_decimal,
        bytes: _write_base64,
        Any: write_json,
    }

"""Durations as people write them: ``100ms``, ``5s``, ``1h30m``, ``7d``; the code has float seconds."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

__all__ = ["LONGEST", "format_duration", "parse_duration"]

LONGEST: Final = 36_500 * 86_400.0
"""The longest duration in seconds, 36500 days, which timers and locks of the platform can still take."""

_UNITS: Final = {
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_NUMBER = r"\d{1,20}(?:\.\d{1,40})?"
_DURATION = re.compile("".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _UNITS), re.ASCII)


def parse_duration(text: str) -> float:
    """The seconds of a text such as ``1h30m``.

    Units are d, h, m, s and ms, from the largest to the smallest, each at most once; a number may have a
    fraction. Raises ``ValueError`` for anything else, and for more than 36500 days.
    """
    match = _DURATION.fullmatch(text.strip())
    parts = {} if match is None else {unit: number for unit, number in match.groupdict().items() if number}
    if not parts:
        hint = (
            "give it a unit" if re.fullmatch(_NUMBER, text.strip()) else "write it as 100ms, 5s, 1h30m or 7d"
        )
        raise ValueError(f"{text[:40]!r} is not a duration; {hint}")
    seconds = float(sum(_UNITS[unit] * Decimal(number) for unit, number in parts.items()))
    if seconds > LONGEST:
        raise ValueError(f"{text[:40]!r} is longer than 36500d")
    return seconds


def format_duration(seconds: float) -> str:
    """A short text that ``parse_duration`` reads as the same seconds, to the nanosecond."""
    rest = Decimal(repr(float(seconds)))
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"a duration has 0 to {LONGEST:.0f} seconds, got {seconds!r}")
    if 0 < rest < 1:
        return _plain(rest * 1000) + "ms"
    text = ""
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            text += f"{count:f}{unit}"
    return text + _plain(rest) + "s" if rest or not text else text


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

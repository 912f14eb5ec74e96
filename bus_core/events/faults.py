"""The faults of a value: each names the place inside the value, and never quotes it."""

from __future__ import annotations

__all__ = ["Fault", "Unfit", "unfit", "within"]

_LONGEST_PATH = 500

Fault = tuple[str, str]
"""The path inside the value (``.street``, ``[3]``, or empty), and the fault there."""


class Unfit(ValueError):
    """A value does not fit its type. ``faults`` never quotes the value."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{path or 'the value'} {words}" for path, words in faults))


def unfit(wanted: str) -> Unfit:
    """One fault: the value must be ``wanted``."""
    return Unfit([("", f"must be {wanted}")])


def within(place: str, error: Unfit) -> Unfit:
    """The faults of a value as faults of the enclosing value. A long path is shortened."""
    return Unfit(
        [(f"{place}{path if len(path) < _LONGEST_PATH else '[...]'}", words) for path, words in error.faults]
    )

"""Errors as people read them: in health, in dead letters, in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bus_core.runtime.error_text import describe_error, place_of, printable


def caused() -> None:
    try:
        raise ConnectionError("refused")
    except ConnectionError as error:
        raise ValueError("no price") from error


def grouped() -> None:
    raise ExceptionGroup("two went wrong", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])


def in_time() -> None:
    raise TimeoutError("too late") from asyncio.CancelledError()


def circular() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    raise one


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit


def hostile() -> None:
    raise Hostile


def raised(by: Callable[[], None]) -> BaseException:
    try:
        by()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("by", "text"),
    [
        (caused, "ValueError: no price; caused by ConnectionError: refused"),
        (
            grouped,
            "ExceptionGroup: two went wrong (2 sub-exceptions) [ValueError: a | "
            "ExceptionGroup: inner (1 sub-exception) [KeyError: 'b']]",
        ),
        (in_time, "TimeoutError: too late"),
        (circular, "ValueError: one; caused by ValueError: two"),
        (hostile, "Hostile: <its text cannot be shown>"),
    ],
)
def test_the_cause_is_told_whole(by: Callable[[], None], text: str) -> None:
    """Causes and the members of groups are named; what a time limit is made of is not."""
    assert describe_error(raised(by)) == text


def test_a_group_without_end_is_bounded() -> None:
    """However much a group holds, its text has a bound, and says how much it leaves out."""
    many = ExceptionGroup("many", [ValueError(str(number)) for number in range(1000)])
    assert "and 990 more" in describe_error(many)
    assert len(describe_error(ValueError("x" * 10_000))) == 2000


def test_the_place() -> None:
    """The place names file, line and function of what raised; an error that nobody raised has none."""
    place = place_of(raised(caused))
    assert place.startswith(f"{__file__}:")
    assert place.endswith(" in caused")
    assert place_of(ValueError()) == "?"


def test_a_printable_text_stays_in_its_line() -> None:
    """A text from elsewhere can neither begin a new line nor colour a terminal."""
    assert printable("a\nERROR b\x1b[31m\u202e") == "a\\nERROR b\\x1b[31m\\u202e"
    assert printable("x" * 1000) == "x" * 297 + "..."

"""Errors as people read them: in health, in dead letters, in the log."""

from __future__ import annotations

import asyncio
import json
import linecache
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus_core import TopicPattern
from bus_core.runtime.error_text import describe_error, place_of, printable, traceback_of, with_place


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


def raised(by: Callable[[], object]) -> BaseException:
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


def running_in(file: str | Path, source: str) -> Callable[..., Any]:
    """A function of one parameter, ``call``, in a file that need not be there."""
    names: dict[str, Any] = {}
    exec(compile(f"def inside(call):\n    {source}", str(file), "exec"), names)
    return names["inside"]  # type: ignore[no-any-return]


def in_application() -> None:
    raise LookupError("no price")


def test_the_place_is_the_applications() -> None:
    """The innermost frame of the application is told, not that of a library which it called."""
    site = sysconfig.get_paths()["purelib"]
    library = running_in(f"{site}/pricing/rates.py", "call()")
    standard = running_in(json.__file__, "call()")
    plugin = running_in("/opt/promenade_bus_extra/middleware.py", "call()")
    generated = running_in("<attrs generated init shop.Order>", "call()")

    def boom() -> None:
        int("x")

    for around in (library, standard, plugin, generated):
        place = place_of(raised(lambda around=around: around(in_application)))  # type: ignore[misc]
        assert place.endswith(" in in_application"), place
    place = place_of(raised(lambda: library(lambda: json.loads("{"))))
    assert place.startswith(f"{__file__}:"), place
    assert place.endswith(" in <lambda>")
    place = place_of(raised(lambda: TopicPattern("not a pattern")))
    assert place.startswith(f"{__file__}:"), place


def test_the_place_where_no_application_is() -> None:
    """Without a frame of the application it is that of an installed package, or else the innermost."""
    site = sysconfig.get_paths()["purelib"]
    failing = running_in(f"{site}/pricing/rates.py", "raise ValueError('x')")
    assert only_inside(lambda: failing(None)) == f"{site}/pricing/rates.py:2 in inside"
    assert only_inside(lambda: json.loads("{")).startswith(json.decoder.__file__)


def only_inside(call: Callable[[], object]) -> str:
    """The place of an error as it is told where nothing of this file is around it."""
    error = raised(lambda: call())
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename == __file__:
        at = at.tb_next
    return place_of(error.with_traceback(at))


def test_the_place_of_a_cause() -> None:
    """An error that has met nothing of the application has the place of what led to it."""
    standard = running_in(json.__file__, "raise TimeoutError('late') from call")
    error = raised(lambda: standard(raised(in_application)))
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    inside = error.__traceback__.tb_next.tb_next
    assert place_of(error.with_traceback(inside)).endswith(" in in_application")


def test_the_place_that_was_given() -> None:
    """A given place counts only where neither the error nor a cause has met the application."""
    given = "/srv/shop.py:18 in late"
    assert place_of(with_place(TimeoutError("late"), given)) == given
    assert place_of(with_place(raised(caused), given)).endswith(" in caused")
    error = TimeoutError("late")
    error.__cause__ = with_place(asyncio.CancelledError(), given)
    assert place_of(error) == given


def test_the_place_is_bounded() -> None:
    """However long a path is, the place keeps its end: the name of the file, the line, the function."""
    failing = running_in(f"/{'x' * 5000}/shop.py", "raise ValueError")
    place = place_of(raised(lambda: failing(None)))
    assert len(place) == 500
    assert place.endswith("/shop.py:2 in inside")


def test_a_traceback_without_texts() -> None:
    """A traceback has the frames and not the text of the error, and is bounded, its end kept."""
    text = traceback_of(raised(caused))
    assert text.endswith('raise ValueError("no price") from error')
    assert "in caused" in text
    assert "ValueError: no price" not in text
    file = "/opt/deep.py"
    linecache.cache[file] = (
        1,
        None,
        ["def inside(call):\n", f"    raise ValueError  # {'x' * 6000}\n"],
        file,
    )
    failing = running_in(file, "raise ValueError")
    assert len(traceback_of(raised(lambda: failing(None)))) == 4000
    assert traceback_of(ValueError()) == ""


def test_a_printable_text_stays_in_its_line() -> None:
    """A text from elsewhere can neither begin a new line nor colour a terminal."""
    assert printable("a\nERROR b\x1b[31m\u202e") == "a\\nERROR b\\x1b[31m\\u202e"
    assert printable("x" * 1000) == "x" * 297 + "..."

"""Errors as text: bounded for people, and without personal data for logs."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Final, TypeVar

__all__ = ["describe_error", "likelihood_of", "place_of", "printable", "traceback_of", "with_place"]

E = TypeVar("E", bound=BaseException)

_MOST_CAUSES = 5
_MOST_MEMBERS = 10
_MOST_LEVELS = 3
_LONGEST_PLACE = 500
_LONGEST_TRACEBACK = 4000
_MOST_FRAMES = 30


def describe_error(
    error: BaseException, limit: int = 2000, *, cleaned: Callable[[str], str] | None = None
) -> str:
    """``"Type: message"`` for a person, with causes and members of groups, bounded in length.

    Survives errors whose ``str`` raises. ``cleaned`` removes secret values from each text.
    """
    alone = error.__cause__ is None
    described = _described(error, _MOST_LEVELS, cleaned) if alone else "".join(_chain(error, cleaned))
    return described if len(described) <= limit else described[: limit - 3] + "..."


def _chain(error: BaseException, cleaned: Callable[[str], str] | None) -> Iterator[str]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(seen) < _MOST_CAUSES:
        if seen and isinstance(following, asyncio.CancelledError):
            return  # the way a time limit works is no cause
        yield ("; caused by " if seen else "") + _described(following, _MOST_LEVELS, cleaned)
        seen.add(id(following))
        following = following.__cause__


def _described(error: BaseException, levels: int, cleaned: Callable[[str], str] | None) -> str:
    """One error, and the members of a group, without their causes."""
    name = type(error).__name__
    try:
        text = str(error)
        if text.__class__ is not str or not text.isascii():
            text = text.encode("utf-8", "backslashreplace").decode()
        if text and cleaned is not None:
            text = cleaned(text)
    except BaseException:  # a hostile __str__ must not take the worker down
        text = "<its text cannot be shown>"
    described = f"{name}: {text}" if text else name
    if isinstance(error, BaseExceptionGroup) and levels:
        members = [_described(member, levels - 1, cleaned) for member in error.exceptions[:_MOST_MEMBERS]]
        more = len(error.exceptions) - len(members)
        described += f" [{' | '.join(members)}{f' | and {more} more' if more else ''}]"
    return described


# --- places -----------------------------------------------------------------------------------------------


def place_of(error: BaseException) -> str:
    """The place where an error was raised, as ``file:line in function``; ``?`` when it was never raised.

    It is the innermost frame of the application, not of the bus, its plugins or the standard library. A frame
    of an installed package counts only where there is no other. An error without a frame of the application,
    such as that of a time limit, has the place of its causes. Without one it is that of ``with_place``, or
    else its innermost frame. The place of a group, or of an error that was made elsewhere, is where it was
    raised.

    A log may show the place and the class, but not the text or the causes, which may be personal.
    """
    found = _innermost(error)
    if found is None or not found[0]:
        for cause in _causes(error):
            of_cause = _innermost(cause)
            if of_cause is not None and of_cause[0]:
                found = of_cause
                break
        else:
            for each in (error, *_causes(error)):
                if given := vars(each).get(_GIVEN):
                    return str(given)[-_LONGEST_PLACE:]
    if found is None:
        return "?"
    at = found[1]
    code = at.tb_frame.f_code
    return f"{code.co_filename}:{at.tb_lineno} in {code.co_name}"[-_LONGEST_PLACE:]


_GIVEN: Final = "__promenade_bus_place__"


def with_place(error: E, place: str | None) -> E:
    """The error, with the place to tell where neither it nor its causes have met the application."""
    setattr(error, _GIVEN, place)
    return error


def _innermost(error: BaseException) -> tuple[int, TracebackType] | None:
    """The innermost of the frames with the highest rank, and that rank."""
    at = error.__traceback__
    if at is None:
        return None
    best, place = 0, at
    while at is not None:
        likely = likelihood_of(at.tb_frame.f_code.co_filename)
        if likely >= best:
            best, place = likely, at
        at = at.tb_next
    return best, place


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The causes of an error, as Python shows them."""
    for _ in range(_MOST_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            return
        yield cause
        error = cause


_CORE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_OF_PLUGIN: Final = re.compile(r"[/\\]promenade_bus_\w+[/\\]")
_INSTALLED: Final = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_MADE: Final = re.compile(r"<frozen |<.* generated ")
"""The files of the interpreter's own modules, and of code that libraries generate."""


@lru_cache(maxsize=4096)
def likelihood_of(file: str) -> int:
    """The rank of a file: 2 for the application, 1 for an installed package, 0 for anything else."""
    if file.startswith(_CORE) or _MADE.match(file) or _OF_PLUGIN.search(file):
        return 0
    if _INSTALLED.search(file):
        return 1
    return 0 if file.startswith(_STANDARD) else 2


def traceback_of(error: BaseException) -> str:
    """The frames that led to an error, the innermost last, without its text; bounded in length."""
    import traceback

    text = "".join(traceback.format_tb(error.__traceback__, -_MOST_FRAMES)).rstrip()
    return text if len(text) <= _LONGEST_TRACEBACK else f"...{text[3 - _LONGEST_TRACEBACK :]}"


def printable(text: str, limit: int | None = 300) -> str:
    """A text in one line, with characters escaped that could deceive a terminal or a reader of logs.

    These are line breaks, escape sequences, and characters that change the direction of writing.
    """
    shown = text if limit is None or len(text) <= limit else text[: limit - 3] + "..."
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)

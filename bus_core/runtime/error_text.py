"""Errors as text: bounded for people, and without personal data for logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import TracebackType

__all__ = ["describe_error", "place_of", "printable"]

_MOST_CAUSES = 5
_MOST_MEMBERS = 10
_MOST_LEVELS = 3


def describe_error(
    error: BaseException, limit: int = 2000, *, cleaned: Callable[[str], str] | None = None
) -> str:
    """``"Type: message"`` for a person, with the causes and the members of groups, bounded in length.

    Survives errors whose ``str`` raises. ``cleaned`` removes from each text the values that must not show.
    """
    described = "".join(_chain(error, cleaned))
    return described if len(described) <= limit else described[: limit - 3] + "..."


def _chain(error: BaseException, cleaned: Callable[[str], str] | None) -> Iterator[str]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(seen) < _MOST_CAUSES:
        if seen and isinstance(following, asyncio.CancelledError):
            return  # how a time limit works is no cause of its own
        yield ("; caused by " if seen else "") + _described(following, _MOST_LEVELS, cleaned)
        seen.add(id(following))
        following = following.__cause__


def _described(error: BaseException, levels: int, cleaned: Callable[[str], str] | None) -> str:
    """One error, and the members of a group, without their causes."""
    name = type(error).__name__
    try:
        text = str(error).encode("utf-8", "backslashreplace").decode()
        text = text if cleaned is None else cleaned(text)
    except BaseException:  # a hostile __str__ must not take the worker down
        text = "<its text cannot be shown>"
    described = f"{name}: {text}" if text else name
    if isinstance(error, BaseExceptionGroup) and levels:
        members = [_described(member, levels - 1, cleaned) for member in error.exceptions[:_MOST_MEMBERS]]
        more = len(error.exceptions) - len(members)
        described += f" [{' | '.join(members)}{f' | and {more} more' if more else ''}]"
    return described


def place_of(error: BaseException) -> str:
    """The place where an error was raised, as ``file:line in function``; ``?`` when it was never raised.

    A log may show this and the class. Neither the text nor the causes may be logged: both may
    be personal. Of a group, and of an error that was made elsewhere, it is the place that raised it.
    """
    at: TracebackType | None = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None:
        return "?"
    code = at.tb_frame.f_code
    return f"{code.co_filename}:{at.tb_lineno} in {code.co_name}"


def printable(text: str, limit: int | None = 300) -> str:
    """A text in one line, with anything escaped that a terminal or a reader of logs could take for more.

    That is line breaks, escape sequences, and characters that change the direction of writing.
    """
    shown = text if limit is None or len(text) <= limit else text[: limit - 3] + "..."
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)

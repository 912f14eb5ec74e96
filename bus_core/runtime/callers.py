"""The line of the application that called the bus, also where the call runs on the loop of another thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Coroutine
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, TypeVar

from bus_core.runtime.error_text import likelihood_of

__all__ = ["Line", "calling_line", "run_on_loop"]

R = TypeVar("R")

Line = tuple[str, int, dict[str, Any]]
"""A file, a number of a line, and the globals of the module."""

_called_from: ContextVar[Line | None] = ContextVar("promenade_bus_called_from", default=None)
"""The line of another thread that called what runs here."""

_BEGINNINGS: Final = frozenset({"asyncio.events", "asyncio.runners", "threading"})
"""Modules that begin a task or a thread: no frame outside them has called it."""


def calling_line() -> Line:
    """The innermost line outside the bus, its plugins and the standard library.

    A task or a thread without one has the line that ``run_on_loop`` was called from, or else its innermost
    line outside the bus.
    """
    frame: FrameType | None = sys._getframe(1)
    outside: FrameType | None = None
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if likelihood_of(frame.f_code.co_filename):
            return _line_of(frame)
        if outside is None and not name.startswith(("bus_core.", "promenade_bus_")):
            outside = frame
        if name in _BEGINNINGS:
            break
        frame = frame.f_back
    return _called_from.get() or _line_of(outside or sys._getframe(1))


def _line_of(frame: FrameType) -> Line:
    return frame.f_code.co_filename, frame.f_lineno, frame.f_globals


def run_on_loop(
    coroutine: Coroutine[Any, Any, R], loop: asyncio.AbstractEventLoop
) -> concurrent.futures.Future[R]:
    """``asyncio.run_coroutine_threadsafe``, and lets the coroutine know the line that called the bus."""
    token = _called_from.set(calling_line())
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    finally:
        _called_from.reset(token)

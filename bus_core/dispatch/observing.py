"""Calls observers, whose errors never affect the event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from bus_core.runtime.error_text import place_of
from bus_core.runtime.logs import plain_logger

__all__ = ["timed", "told_without_effect"]

T = TypeVar("T")

Tell = Callable[[float, BaseException | None], None]
"""An observer of durations: takes the seconds that a handler took, and its error or None."""

logger = plain_logger("promenade.bus")


def told_without_effect(what: str, tell: Callable[[T], None], news: T) -> None:
    """Calls an observer. Logs the class and place of an error that it raises."""
    try:
        tell(news)
    except BaseException as broken:
        _log(what, broken)


def timed(
    call: Callable[..., Awaitable[Any]], tells: Sequence[Tell], monotonic: Callable[[], float]
) -> Callable[..., Awaitable[Any]]:
    """Calls a handler, and reports its duration and its error."""
    tell = tells[0] if len(tells) == 1 else _to_each(tells)

    async def timed_call(*arguments: Any) -> None:
        began = monotonic()
        try:
            await call(*arguments)
        except BaseException as error:
            seconds = monotonic() - began
            try:
                tell(seconds, error)
            except BaseException as broken:
                _log("of durations", broken)
            raise
        seconds = monotonic() - began
        try:
            tell(seconds, None)
        except BaseException as broken:
            _log("of durations", broken)

    return timed_call


def _to_each(tells: Sequence[Tell]) -> Tell:
    def tell(seconds: float, error: BaseException | None) -> None:
        for each in tells:
            try:
                each(seconds, error)
            except BaseException as broken:
                _log("of durations", broken)

    return tell


def _log(what: str, broken: BaseException) -> None:
    logger.error("an observer %s raised %s at %s", what, type(broken).__name__, place_of(broken))

"""Log lines that cannot be forged: foreign text is escaped before it is written."""

from __future__ import annotations

import logging
from typing import Any, Final

from bus_core.runtime.error_text import printable

__all__ = ["PlainLogger", "counted", "plain_logger"]

_LONGEST: Final = 1_000
"""The most characters of one argument in a line, because ids may have any length."""


def counted(number: int, one: str, many: str = "") -> str:
    """Returns a number with its noun: ``1 event``, ``3 events``; ``many`` is by default ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


class PlainLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose arguments are written with ``printable``; its messages are constants of the bus."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)
        self.isEnabledFor = logger.isEnabledFor  # type: ignore[method-assign]  # asked for each failure

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # so that the line of the caller is shown
            self.logger.log(level, msg, *map(_plain, args), **kwargs)


def plain_logger(name: str) -> PlainLogger:
    """The logger of a name, for lines with foreign text: ids, topics, groups, errors."""
    return PlainLogger(logging.getLogger(name))


def _plain(argument: object) -> object:
    if isinstance(argument, str):
        return printable(argument, _LONGEST)
    if argument is None or isinstance(argument, int | float):
        return argument
    return _Shown(argument)


class _Shown:
    """Writes an object with ``printable``."""

    def __init__(self, shown: object) -> None:
        self._shown = shown

    def __str__(self) -> str:
        return printable(str(self._shown), _LONGEST)

    def __repr__(self) -> str:
        return printable(repr(self._shown), _LONGEST)

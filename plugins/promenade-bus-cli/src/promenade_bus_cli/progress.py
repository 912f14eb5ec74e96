"""The progress of long work: a bar on a terminal, nothing elsewhere. It goes to stderr."""

from __future__ import annotations

import os
import stat
import sys
from types import TracebackType
from typing import Any, BinaryIO, Self

from promenade_bus_cli.output import remark

__all__ = ["Progress", "size_of"]


class Progress:
    """A progress bar as a context manager. Print lines with ``report`` while it is shown.

    ``total`` is the amount of work; None when it is unknown.
    """

    def __init__(self, total: int | None) -> None:
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty():
            self._bar, self._task = _bar_for(total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, size: int, sentence: str) -> None:
        """Advances the bar by ``size``, and shows the sentence beside it."""
        if self._bar is not None:
            self._bar.update(self._task, advance=size, description=sentence)

    def report(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is None:
            remark(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _bar_for(total: int | None) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    return bar, bar.add_task("", total=total)


def size_of(source: BinaryIO) -> int | None:
    """Returns the size of a regular file in bytes, or None for a pipe."""
    try:
        found = os.fstat(source.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None

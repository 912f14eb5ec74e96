"""The common part of groups of servers: all of them run, or none."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

__all__ = ["Stacked"]


class Stacked:
    """Servers that are started when it is entered, and ended when it is left, or when one does not start."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, stack: ExitStack) -> None:
        """Starts everything, and puts on the stack how each of it is ended."""
        raise NotImplementedError

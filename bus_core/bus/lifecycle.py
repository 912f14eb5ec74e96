"""The lifecycle of a bus: the calls that are valid in a state, on a loop, in a process."""

from __future__ import annotations

import asyncio
from enum import Enum
from threading import get_ident

from bus_core.dispatch.engine import Engine, current_engine
from bus_core.errors import BusClosed, BusForked, BusNotStarted, WrongEventLoop

__all__ = ["Lifecycle", "Stage"]


class Stage(Enum):
    """The stages of a bus, in order. The only step back is from a failed start to NEW."""

    NEW = "not started"
    STARTING = "starting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Lifecycle:
    """The current stage of a bus. Each check raises the error for its caller.

    ``loop`` is the event loop that started the bus, and ``thread`` is its thread. ``forked`` is set in a
    child process that inherited the bus.
    """

    def __init__(self, engine: Engine) -> None:
        self.stage = Stage.NEW
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.forked = False
        self._engine = engine

    @property
    def in_handler(self) -> bool:
        """True when a handler of this bus calls, or a task that it started."""
        return current_engine() is self._engine

    def check_fork(self, doing: str) -> None:
        """Raises ``BusForked``."""
        if self.forked:
            raise BusForked(doing)

    def check_loop(self, doing: str) -> None:
        """Raises ``WrongEventLoop``."""
        if asyncio._get_running_loop() is not self.loop:
            raise WrongEventLoop(doing)

    def check_thread(self, doing: str) -> None:
        """Checks a read that needs no loop; raises ``WrongEventLoop`` in another thread."""
        if self.stage in (Stage.OPEN, Stage.CLOSING) and get_ident() != self.thread:
            raise WrongEventLoop(doing)

    def check_usable(self, doing: str) -> None:
        """Checks a call that may come before start: ``BusForked``, ``BusClosed``, ``WrongEventLoop``."""
        self.check_fork(doing)
        if self.stage in (Stage.CLOSING, Stage.CLOSED):
            raise BusClosed(doing)
        if self.stage is Stage.OPEN:
            self.check_loop(doing)

    def check_open(self, doing: str) -> None:
        """Checks like ``check_usable``, and raises ``BusNotStarted``."""
        self.check_usable(doing)
        if self.stage is not Stage.OPEN:
            raise BusNotStarted(doing)

    def check_accepting(self) -> None:
        """Checks a publish. A closing bus still accepts and handles events of its own handlers."""
        if self.stage is Stage.CLOSING and self.in_handler and not self._engine.abandoning:
            return
        self.check_open("publish")

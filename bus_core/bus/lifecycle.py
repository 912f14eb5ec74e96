"""The lifecycle of a bus: the calls that are allowed in a state, on a loop, in a process."""

from __future__ import annotations

import asyncio
from enum import Enum
from threading import get_ident

from bus_core.dispatch.engine import Engine, current_engine
from bus_core.errors import BusClosed, BusForked, BusNotStarted, WrongEventLoop

__all__ = ["Lifecycle", "Stage"]


class Stage(Enum):
    """Steps go downwards only, except that a start that failed goes back to NEW."""

    NEW = "not started"
    STARTING = "starting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Lifecycle:
    """The stage that a bus has reached. Each check raises the error for its caller.

    ``loop`` is the event loop that started the bus, ``thread`` the thread that it runs in. ``forked`` is set
    in a child process that inherited it.
    """

    def __init__(self, engine: Engine) -> None:
        self.stage = Stage.NEW
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.forked = False
        self._engine = engine

    @property
    def in_handler(self) -> bool:
        """True when the caller is a handler of this bus, or was started by one."""
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
        """For what may be read without a loop, too; raises ``WrongEventLoop`` in another thread."""
        if self.stage in (Stage.OPEN, Stage.CLOSING) and get_ident() != self.thread:
            raise WrongEventLoop(doing)

    def check_usable(self, doing: str) -> None:
        """For calls allowed before start, too; raises ``BusForked``, ``BusClosed``, ``WrongEventLoop``."""
        self.check_fork(doing)
        if self.stage in (Stage.CLOSING, Stage.CLOSED):
            raise BusClosed(doing)
        if self.stage is Stage.OPEN:
            self.check_loop(doing)

    def check_open(self, doing: str) -> None:
        """The same, and raises ``BusNotStarted``."""
        self.check_usable(doing)
        if self.stage is not Stage.OPEN:
            raise BusNotStarted(doing)

    def check_accepting(self) -> None:
        """While the bus is closing it takes events of its own handlers only, and handles them still."""
        if self.stage is Stage.CLOSING and self.in_handler and not self._engine.abandoning:
            return
        self.check_open("publish")

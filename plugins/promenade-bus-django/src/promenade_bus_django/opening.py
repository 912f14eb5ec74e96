"""Opens the bus of a server in the background, where its first attempt has found no server or no database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from django.db import connections

from bus_core import AdapterError
from bus_core.runtime import place_of, plain_logger
from promenade_bus_django.project_bus import DatabaseUnreachable

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Opener"]

FIRST_PAUSE: Final = 0.5
"""Seconds before the first attempt; each further pause is twice as long."""

LONGEST_PAUSE: Final = 30.0
"""Seconds of the longest pause between two attempts."""

logger = plain_logger("promenade.django")


class Opener:
    """A daemon thread that opens a bus as soon as its adapter and its database can be reached.

    It ends when the bus is open, when it is stopped, and at an error that no later attempt would mend.
    ``lock`` is held during an attempt: no attempt begins after a ``stop`` under the lock.
    """

    def __init__(self, open_bus: Callable[[], object], lock: AbstractContextManager[Any]) -> None:
        self._open_bus = open_bus
        self._lock = lock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="promenade-bus-opener", daemon=True)

    @property
    def is_alive(self) -> bool:
        """True while it tries."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to try, after a pause."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after an attempt that has begun."""
        self._stopped.set()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while not self._stopped.wait(pause):
                if self._opens():
                    return
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            connections.close_all()  # those of this thread

    def _opens(self) -> bool:
        """True if there is no further attempt to make."""
        try:
            with self._lock:
                if self._stopped.is_set():
                    return True
                self._open_bus()
        except (AdapterError, DatabaseUnreachable):
            return False  # the first one is in the log
        except Exception as error:
            logger.error(
                "the bus could not be opened, and is tried again when it is used: %s (%s)",
                type(error).__name__,
                place_of(error),
            )
            return True
        logger.warning("the bus is open: what it needs can be reached again")
        return True

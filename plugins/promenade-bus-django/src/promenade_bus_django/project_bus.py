"""The ``SyncBus`` of a project, with what runs beside it: the relay of the outbox."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from bus_core import Bus, BusError, DrainReport, SyncBus
from bus_core.abc import Seconds
from bus_core.runtime import plain_logger

__all__ = ["Companion", "DatabaseUnreachable", "ProjectBus"]

logger = plain_logger("promenade.django")


class DatabaseUnreachable(BusError):
    """The companion cannot start because its database does not answer."""


class Companion(Protocol):
    """Something that starts after the bus, and is closed before it."""

    def start(self) -> None:
        """Starts it; the bus is open."""
        ...

    def close(self) -> None:
        """Closes it, whether it was started or not; harmless when repeated. An open bus is still open."""
        ...


class ProjectBus(SyncBus):
    """A ``SyncBus`` that starts and closes a companion with itself, if ``runs_companion`` is set."""

    def __init__(self, bus: Bus, companion: Callable[[SyncBus], Companion] | None = None) -> None:
        super().__init__(bus)
        self.runs_companion = False
        self._companion = None if companion is None else companion(self)
        self._companion_lock = threading.Lock()
        self._companion_runs = False

    def start(self) -> None:
        """Starts the bus, and then the companion; closes the bus again if that fails."""
        super().start()
        if self._companion is None or not self.runs_companion:
            return
        with self._companion_lock:
            if self._companion_runs:
                return
            try:
                self._companion.start()
            except BaseException:
                try:
                    self._companion.close()
                finally:
                    super().close(0)
                raise
            self._companion_runs = True

    def close(self, timeout: Seconds | None = None) -> DrainReport:
        """Closes the companion, and then the bus; see ``SyncBus.close``."""
        if self._companion is not None and not self.bus.forked and not self.bus.in_handler:
            with self._companion_lock:
                self._companion_runs = False
                try:
                    self._companion.close()
                except Exception as error:  # the bus is closed all the same
                    logger.warning("the companion of the bus did not close: %s", str(error) or repr(error))
        return super().close(timeout)

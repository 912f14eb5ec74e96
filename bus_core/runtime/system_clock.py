"""The clock of every bus outside tests. It is apart from the protocol, which needs no event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from bus_core.runtime.clock import TimerHandle

__all__ = ["SystemClock"]


class SystemClock:
    """The real clock: the system's wall clock and the running event loop's timers."""

    monotonic = staticmethod(time.monotonic)
    timestamp = staticmethod(time.time)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback)

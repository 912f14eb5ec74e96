"""Sleeps that others may end."""

from __future__ import annotations

import asyncio

__all__ = ["Sleeper", "resolve"]


class Sleeper:
    """A sleep of one task that others can end. ``wake`` is a no-op while it is awake."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        self._woken: asyncio.Future[None] | None = None

    async def sleep(self, seconds: float | None) -> None:
        """Sleeps until something wakes it, or until so many seconds of real time are over."""
        loop = asyncio.get_running_loop()
        self._woken = woken = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(0.0, seconds), resolve, woken)
        try:
            await woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Ends the sleep, if there is one."""
        if self._woken is not None:
            resolve(self._woken)


def resolve(future: asyncio.Future[None]) -> None:
    """Sets the result of a future, unless it is done."""
    if not future.done():
        future.set_result(None)

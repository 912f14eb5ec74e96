"""The plan of a handler for an event. The event says it, in the form ``name`` or ``name:number``."""

from __future__ import annotations

import asyncio
import os
import time

from bus_core import Delivery
from chaos.events import Task


class Poison(Exception):
    """The error of a handler that was told to fail."""


class Effect:
    """The handler of one process. ``seconds`` is how long it takes for an event without a plan.

    Plans that take time have it in leases of ``lease`` seconds. ``generation`` counts the processes that
    replaced each other.
    """

    def __init__(self, seconds: float, lease: float, generation: int) -> None:
        self._seconds = seconds
        self._lease = lease
        self._generation = generation

    async def handle(self, event: Task, delivery: Delivery) -> None:
        """Does what the event says."""
        name, _, number = event.plan.partition(":")
        amount = float(number or 0)
        match name:
            case "":
                await asyncio.sleep(self._seconds)
            case "sleep":
                await asyncio.sleep(amount * self._lease)
            case "block":
                time.sleep(amount * self._lease)  # noqa: ASYNC251 - the point of it
            case "fail":  # so many attempts
                if delivery.attempt <= amount:
                    raise Poison("it was told to fail")
            case "hang":  # in the first processes, for ever
                if self._generation == 0:
                    await asyncio.Event().wait()
            case "cancel":
                raise asyncio.CancelledError
            case "exit":
                raise SystemExit(3)
            case "recurse":
                self._recurse()
            case "die":
                os._exit(3)
            case _:
                raise Poison("it was told to fail")

    def _recurse(self) -> None:
        self._recurse()

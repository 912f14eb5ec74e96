"""Who settles a job: the engine decides what becomes of it, a settler carries that out where it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bus_core.abc import InProcessAdapter
from bus_core.dispatch.units import Job
from bus_core.events.messages import DeadLetter

__all__ = ["LocalSettler", "Settler"]


class Settler(Protocol):
    """The way back of the jobs of one lane. Each job comes to exactly one end; nothing here waits."""

    @property
    def releases(self) -> bool:
        """Whether what is not settled can be given back, for another process or a later one."""
        ...

    @property
    def settling(self) -> Sequence[Job]:
        """The jobs of which is decided what becomes of them, while that is not carried out yet."""
        ...

    def acknowledge(self, job: Job) -> None:
        """It was handled."""
        ...

    def bury(self, job: Job, letter: DeadLetter) -> None:
        """It is dead; when this raises, the letter is lost and nothing has been done."""
        ...

    def keeps(self, job: Job, delay: float) -> bool:
        """Whether the engine keeps a job until its retry is due; False when the settler has taken it."""
        ...

    def release(self, job: Job) -> bool:
        """Gives a job back that was not handled to its end; False where that cannot be done."""
        ...

    def drop(self, job: Job) -> bool:
        """What follows for a job could not be found out. Returns whether it is lost by that."""
        ...


class LocalSettler:
    """Implements ``Settler`` for an adapter in the process: nothing is left to settle but the account.

    ``finish`` is called with each job that has come to its end.
    """

    releases = False
    settling: Sequence[Job] = ()

    def __init__(self, adapter: InProcessAdapter, finish: Callable[[Job], None]) -> None:
        self._adapter = adapter
        self._finish = finish

    def acknowledge(self, job: Job) -> None:
        self._finish(job)

    def bury(self, job: Job, letter: DeadLetter) -> None:
        self._adapter.bury(letter, job.payload, job.lane)
        self._finish(job)

    def keeps(self, job: Job, delay: float) -> bool:
        return True

    def release(self, job: Job) -> bool:
        return False

    def drop(self, job: Job) -> bool:
        self._finish(job)
        return True

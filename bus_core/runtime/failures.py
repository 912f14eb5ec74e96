"""Repeated failures: logged once, and shown in health while they last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from bus_core.errors import BusError
from bus_core.runtime.error_text import place_of, printable
from bus_core.runtime.logs import counted, plain_logger

__all__ = ["FIRST_PAUSE", "Trouble", "answers_to", "ended", "fault_of", "next_pause", "raised_by_itself"]

T = TypeVar("T")

logger = plain_logger("promenade.bus")

FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
"""Seconds of real time between two tries of a failing operation."""

_QUIET = 10.0
"""The least seconds between two reports of the same part, so that an unstable part does not fill the log."""


def next_pause(pause: float) -> float:
    """The pause after the next failure in a row."""
    return min(pause * 2, _LONGEST_PAUSE)


class Trouble:
    """An ongoing failure of a part of the bus; ``text`` is None without one.

    ``subject`` names the part: ``the subscription 'welcome-mail'``.
    """

    def __init__(self, subject: str) -> None:
        self.text: str | None = None
        self._subject = subject
        self._logged = ""  # the last text in the log; empty after "works again"
        self._logged_at = -_QUIET

    def failed(self, doing: str, error: BaseException) -> None:
        """Notes a failure that is followed by another try."""
        kind = type(error).__name__
        # Only errors of an adapter have a text for people. The log has the class only.
        words = f": {printable(str(error))}" if isinstance(error, BusError) and str(error) else ""
        self.text = f"{self._subject} cannot {doing}: {kind}{words}"
        now = time.monotonic()
        if self.text != self._logged and now - self._logged_at >= _QUIET:
            self._logged, self._logged_at = self.text, now
            logger.error(
                "%s cannot %s: %s at %s; trying again until it can",
                self._subject,
                doing,
                kind,
                place_of(error if error.__traceback__ is not None else error.__cause__ or error),
            )

    def over(self) -> None:
        """Notes a success; no-op without a failure before."""
        if self.text is None:
            return
        self.text = None
        if self._logged:
            self._logged = ""
            logger.warning("%s works again", self._subject)


def ended(task: asyncio.Task[None], subscription: str) -> None:
    """Logs the error that ended a task of a subscription; no caller awaits the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical(
            "an error in the engine ended a pump: %s at %s (subscription=%s)",
            type(error).__name__,
            place_of(error),
            subscription,
        )


def raised_by_itself(_: asyncio.CancelledError) -> bool:
    """True when the awaited call raised the error although nobody cancelled the current task: a failure."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


async def fault_of(work: Awaitable[object]) -> BaseException | None:
    """The error of a piece of work, or None. Raises a cancellation of the current task."""
    try:
        await work
    except asyncio.CancelledError as error:
        if not raised_by_itself(error):
            raise
        return error
    except Exception as error:
        return error
    return None


async def answers_to(
    call: Callable[[Sequence[T]], Awaitable[Iterable[object]]], asked: Sequence[T], kind: str
) -> Sequence[object] | BaseException:
    """The results of an adapter for a batch, one for each item, or the error that prevented them.

    Raises a cancellation of the current task.
    """
    answers: list[object] = []

    async def ask() -> None:
        answers.extend(await call(asked))
        if len(answers) != len(asked):
            raise RuntimeError(
                f"the adapter returned {counted(len(answers), 'result')} for {len(asked)} {kind}"
            )

    fault = await fault_of(ask())
    return answers if fault is None else fault

"""Decides after a failed attempt: retry, postpone or dead-letter. Pure, and the same on every adapter."""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Final, Literal

import attrs

from bus_core.abc import RetryPolicy
from bus_core.errors import DeserializationError, PermanentError, Postpone, RetryLater
from bus_core.runtime.error_text import place_of

__all__ = ["Decision", "decide", "decide_undecoded"]


@attrs.define(on_setattr=attrs.setters.frozen)
class Decision:
    """The decision about a failed attempt.

    ``retry`` and ``postpone`` wait ``delay`` seconds; ``dead_letter`` gives up for ``reason``. ``elsewhere``
    asks the adapter, where it can, to offer the event to another instance meanwhile. ``fault`` is the error
    of the decision itself.
    """

    action: Literal["retry", "postpone", "dead_letter"]
    delay: float = 0.0
    reason: str = ""
    elsewhere: bool = False
    fault: BaseException | None = None


def decide(
    error: BaseException,
    attempt: int,
    policy: RetryPolicy,
    give_up_on: tuple[type[BaseException], ...] = (),
) -> Decision:
    """Decides after attempt number ``attempt`` (from 1) failed with ``error``.

    When a policy raises, or does not return a delay, the event is dead-lettered with that reason. To lose it
    or to retry it for ever would be worse.
    """
    asked = _asked_delay(error) if isinstance(error, _ASKING) else None
    if asked is not None and isinstance(error, Postpone):
        return Decision("postpone", asked)
    if isinstance(error, PermanentError):
        return Decision("dead_letter", reason="the handler raised PermanentError")
    if give_up_on and isinstance(error, give_up_on):
        return Decision("dead_letter", reason=f"{type(error).__name__} is listed in give_up_on")
    try:
        delay = policy.next_delay(attempt, error)
        if delay is None:
            times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
            return Decision("dead_letter", reason=f"retries exhausted after {times}")
        if not 0 <= delay < math.inf:
            raise ValueError(f"next_delay returned {delay!r}, which is no delay")
        return _retry(float(delay) if asked is None else asked)
    except BaseException as broken:  # plugin code: even its SystemExit must not take the worker down
        reason = f"the retry policy failed: {type(broken).__name__} at {place_of(broken)}"
        return Decision("dead_letter", reason=reason, fault=broken)


def decide_undecoded(error: BaseException, waited: float, wait: float | None) -> Decision:
    """Decides about a message that cannot be decoded, and has ``waited`` some seconds for that reason.

    A message of another version waits up to ``wait`` seconds in all for an instance with the right code. This
    is not counted as an attempt. ``wait`` is None where no other instance can get it. Other undecodable bytes
    do not change by waiting. The sum of the delays decides, not the clock of a publisher or server.
    """
    version = error.other_version if isinstance(error, DeserializationError) else None
    if version is None:
        return Decision("dead_letter", reason="cannot be decoded")
    if wait is None:
        reason = f"cannot be decoded: version {version} is not known here, and no other instance gets it"
        return Decision("dead_letter", reason=reason)
    if waited < wait:
        delay = min(max(waited / 4, _SOONEST), _LATEST, wait - waited)
        return Decision("postpone", delay, elsewhere=True)
    reason = f"cannot be decoded: no instance that knows version {version} came within {wait:g} s"
    return Decision("dead_letter", reason=reason)


_SOONEST: Final = 0.5
_LATEST: Final = 30.0
"""Bounds in seconds of one wait for other code, which is a quarter of the wait so far."""


_ASKING: Final = (Postpone, RetryLater)


@lru_cache(maxsize=128)
def _retry(delay: float) -> Decision:
    """The delays repeat: most retries use one of a few."""
    return Decision("retry", delay)


def _asked_delay(error: Postpone | RetryLater) -> float | None:
    """The delay that the handler requested; None when a subclass never set it, so that the policy decides."""
    after: object = getattr(error, "after", None)
    return float(after) if isinstance(after, int | float) and 0 <= after <= sys.float_info.max else None

"""The thresholds of each probe, with the names used in the configuration. Times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import attrs

from bus_core import DURATION

__all__ = [
    "ClockOptions",
    "ConsumptionOptions",
    "DeadLetterOptions",
    "EngineOptions",
    "EventLoopOptions",
    "LetterThresholds",
    "LossOptions",
    "QuarantineOptions",
    "RetryOptions",
]


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be a number above 0, got {value!r}")


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be above 0 and at most 1, got {value!r}")


def _in_order(first: str, second: str, options: object) -> None:
    if getattr(options, first) > getattr(options, second):
        raise ValueError(f"{first} must be at most {second}")


@attrs.frozen(kw_only=True)
class EventLoopOptions:
    """The thresholds for the delay of the event loop.

    The probe measures the delay every ``interval``. The longest delay within ``window`` decides: from
    ``degraded`` or ``unhealthy`` on, the check has that status.
    """

    degraded: Annotated[float, DURATION] = attrs.field(default=0.1, validator=_positive)
    unhealthy: Annotated[float, DURATION] = attrs.field(default=1.0, validator=_positive)
    interval: Annotated[float, DURATION] = attrs.field(default=0.1, validator=_positive)
    window: Annotated[float, DURATION] = attrs.field(default=60.0, validator=_positive)

    def __attrs_post_init__(self) -> None:
        _in_order("degraded", "unhealthy", self)
        _in_order("interval", "window", self)


@attrs.frozen(kw_only=True)
class EngineOptions:
    """The thresholds for the load of the engine.

    - ``buffer_fill``: degraded from this share of ``bus.buffer_size``.
    - ``overflow_fill``: unhealthy from this share of ``bus.overflow_size``; any use of the overflow is
      degraded.
    - ``waiting_publishers``: degraded when this many callers of ``publish`` wait for room.
    - ``handler_degraded``, ``handler_unhealthy``: degraded, or unhealthy, when one attempt runs this long.
    - ``backlog``: degraded when this many events wait in one subscription.
    - ``paused_allowed``: do not report paused subscriptions.
    """

    buffer_fill: float = attrs.field(default=0.8, validator=_share)
    overflow_fill: float = attrs.field(default=0.5, validator=_share)
    waiting_publishers: int = attrs.field(default=1, validator=_positive)
    handler_degraded: Annotated[float, DURATION] = attrs.field(default=60.0, validator=_positive)
    handler_unhealthy: Annotated[float, DURATION] = attrs.field(default=600.0, validator=_positive)
    backlog: int = attrs.field(default=1000, validator=_positive)
    paused_allowed: bool = False

    def __attrs_post_init__(self) -> None:
        _in_order("handler_degraded", "handler_unhealthy", self)


def _maybe_positive(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None:
        _positive(instance, attribute, value)


@attrs.frozen(kw_only=True)
class LetterThresholds:
    """From which values on dead letters are ``degraded`` or ``unhealthy``; None for never.

    How many there are, by how many they exceed the least number within the window (``growth``), and for how
    long the oldest has been one.
    """

    degraded: int | None = attrs.field(default=None, validator=_maybe_positive)
    unhealthy: int | None = attrs.field(default=None, validator=_maybe_positive)
    growth_degraded: int | None = attrs.field(default=None, validator=_maybe_positive)
    growth_unhealthy: int | None = attrs.field(default=None, validator=_maybe_positive)
    oldest_degraded: Annotated[float, DURATION] | None = attrs.field(default=None, validator=_maybe_positive)
    oldest_unhealthy: Annotated[float, DURATION] | None = attrs.field(default=None, validator=_maybe_positive)

    def __attrs_post_init__(self) -> None:
        for kind in ("", "growth_", "oldest_"):
            if None not in (getattr(self, f"{kind}degraded"), getattr(self, f"{kind}unhealthy")):
                _in_order(f"{kind}degraded", f"{kind}unhealthy", self)


@attrs.frozen(kw_only=True)
class DeadLetterOptions(LetterThresholds):
    """Thresholds for all dead letters, but for those of ``subscriptions`` that have their own.

    ``window`` is the time over which growth is measured, as often as health is asked.
    """

    degraded: int | None = attrs.field(default=1, validator=_maybe_positive)
    window: Annotated[float, DURATION] = attrs.field(default=600.0, validator=_positive)
    subscriptions: Mapping[str, LetterThresholds] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ConsumptionOptions:
    """The thresholds for a subscription that has work and settles nothing.

    ``degraded`` and ``unhealthy`` are seconds without an outcome. The storage is asked for events that no
    instance has received every ``interval``; ``backlog: false`` leaves that out.
    """

    degraded: Annotated[float, DURATION] = attrs.field(default=60.0, validator=_positive)
    unhealthy: Annotated[float, DURATION] = attrs.field(default=300.0, validator=_positive)
    interval: Annotated[float, DURATION] = attrs.field(default=10.0, validator=_positive)
    backlog: bool = True

    def __attrs_post_init__(self) -> None:
        _in_order("degraded", "unhealthy", self)


@attrs.frozen(kw_only=True)
class LossOptions:
    """The thresholds for events and dead letters that were lost within ``window``; None for never."""

    degraded: int | None = attrs.field(default=1, validator=_maybe_positive)
    unhealthy: int | None = attrs.field(default=None, validator=_maybe_positive)
    window: Annotated[float, DURATION] = attrs.field(default=600.0, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.degraded is not None and self.unhealthy is not None:
            _in_order("degraded", "unhealthy", self)


@attrs.frozen(kw_only=True)
class RetryOptions:
    """The thresholds for events that wait for a retry in this process; None for never.

    ``degraded`` and ``unhealthy`` are about the time since the first failure of the oldest of them, and
    ``waiting`` is the number from which on they degrade.
    """

    degraded: Annotated[float, DURATION] | None = attrs.field(default=300.0, validator=_maybe_positive)
    unhealthy: Annotated[float, DURATION] | None = attrs.field(default=None, validator=_maybe_positive)
    waiting: int | None = attrs.field(default=1000, validator=_maybe_positive)

    def __attrs_post_init__(self) -> None:
        if self.degraded is not None and self.unhealthy is not None:
            _in_order("degraded", "unhealthy", self)


@attrs.frozen(kw_only=True)
class QuarantineOptions:
    """The thresholds for the number of plugins that cannot be loaded; those in ``ignore`` do not count."""

    degraded: int | None = attrs.field(default=1, validator=_maybe_positive)
    unhealthy: int | None = attrs.field(default=None, validator=_maybe_positive)
    ignore: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.degraded is not None and self.unhealthy is not None:
            _in_order("degraded", "unhealthy", self)


@attrs.frozen(kw_only=True)
class ClockOptions:
    """The thresholds for steps of the system's time, forward or back, within ``window``; None for never.

    The probe compares the time with a clock that never steps every ``interval``.
    """

    degraded: Annotated[float, DURATION] | None = attrs.field(default=2.0, validator=_maybe_positive)
    unhealthy: Annotated[float, DURATION] | None = attrs.field(default=None, validator=_maybe_positive)
    interval: Annotated[float, DURATION] = attrs.field(default=1.0, validator=_positive)
    window: Annotated[float, DURATION] = attrs.field(default=600.0, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.degraded is not None and self.unhealthy is not None:
            _in_order("degraded", "unhealthy", self)
        _in_order("interval", "window", self)

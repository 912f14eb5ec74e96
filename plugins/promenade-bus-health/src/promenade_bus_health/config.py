"""The thresholds of each probe, as they stand in the configuration. Times are seconds."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from bus_core import DURATION

__all__ = ["EngineOptions", "EventLoopOptions"]


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be a number above 0, got {value!r}")


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be above 0 and at most 1, got {value!r}")


def _in_order(first: str, second: str, options: object) -> None:
    if getattr(options, first) > getattr(options, second):
        raise ValueError(f"{first} must be at most {second}: what is unhealthy is degraded first")


@attrs.frozen(kw_only=True)
class EventLoopOptions:
    """How late the event loop may be.

    The loop is asked every ``interval`` whether it answers in time. The longest delay within ``window``
    counts: from ``degraded`` or ``unhealthy`` on the check has that status.
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
    """How much the engine may have in hand.

    - ``buffer_fill``: from this share of ``bus.buffer_size`` on it is degraded.
    - ``overflow_fill``: from this share of ``bus.overflow_size`` on it is unhealthy; below, any use of the
      overflow is degraded.
    - ``waiting_publishers``: from so many callers of ``publish`` on that wait for room it is degraded.
    - ``handler_degraded``, ``handler_unhealthy``: how long one attempt of a handler may run.
    - ``backlog``: from so many events on that wait in one subscription it is degraded.
    - ``paused_allowed``: whether a paused subscription is nothing to report.
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

"""The options of the chaos middleware, with the names used in the configuration."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from bus_core import DURATION

__all__ = ["ChaosOptions"]


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} is a share from 0 (never) to 1 (always), got {value!r}")


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{attribute.name} must be at least 0 s, got {value!r}")


@attrs.frozen(kw_only=True)
class ChaosOptions:
    """The shares of calls that get a fault, from 0 (never, the default) to 1 (always).

    - ``seed``: the same seed gives the same faults; each subscription and each topic has its own sequence.
    - ``fail``: the call fails before the handler or the adapter is called.
    - ``fail_after``: the call fails after the handler returned or the adapter accepted the event.
    - ``duplicate``: the handler is called, or the event published, twice.
    - ``delay``: the call waits for a random time of up to ``max_delay``, on the bus's clock.
    """

    seed: int = 0
    fail: float = attrs.field(default=0.0, validator=_share)
    fail_after: float = attrs.field(default=0.0, validator=_share)
    duplicate: float = attrs.field(default=0.0, validator=_share)
    delay: float = attrs.field(default=0.0, validator=_share)
    max_delay: Annotated[float, DURATION] = attrs.field(default=0.1, validator=_not_negative)

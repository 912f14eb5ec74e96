"""The options of ``mode: pubsub``, as they stand in ``bus.redis.pubsub``."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from bus_core.config.settings import DURATION

__all__ = ["PubsubOptions"]

_POSITIVE: Any = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class PubsubOptions:
    """What ``mode: pubsub`` has of its own.

    - ``buffer``: how many bytes of events may wait in this process for the handlers of one subscription;
      what comes while it is full is dropped, and counted as missed.
    - ``announce``: how long after its last event on a topic a publisher says which number that had, so that
      whoever missed the last ones can tell; said again after twice that time, four times, and so on.
    - ``dead_letters``: how many dead letters are kept in this process; the oldest ones give way, and are
      counted as lost.
    """

    buffer: int = attrs.field(default=16 * 1024 * 1024, validator=attrs.validators.ge(1024))
    announce: Annotated[float, DURATION] = attrs.field(
        default=1.0, validator=[_POSITIVE, attrs.validators.le(60.0)]
    )
    dead_letters: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))

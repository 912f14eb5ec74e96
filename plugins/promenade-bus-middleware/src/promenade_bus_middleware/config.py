"""The options of each middleware, as they stand in the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs

from bus_core import DURATION

__all__ = ["Level", "LoggingOptions", "TimeoutOptions"]

Level = Literal["debug", "info", "warning", "error"]


def _more_than_nothing(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be a time longer than 0 s, got {value!r}")


@attrs.frozen(kw_only=True)
class LoggingOptions:
    """``level`` is for events that went well, ``failure_level`` for the others.

    ``headers`` names message headers that are logged, too, such as ``traceparent``. Choose only headers
    that hold no personal data: fields of events are never logged, headers are by your choice.
    """

    level: Level = "info"
    failure_level: Level = "warning"
    logger: str = attrs.field(default="promenade.bus.events", validator=attrs.validators.min_len(1))
    headers: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class TimeoutOptions:
    """``seconds`` is how long one attempt, or one publish, may take; ``30``, ``500ms`` and ``5m`` all do."""

    seconds: Annotated[float, DURATION] = attrs.field(validator=_more_than_nothing)

"""The options of each middleware, with the names used in the configuration."""

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
    """The options of ``logging``.

    ``level`` is the level for successful events, ``failure_level`` for failed ones. ``headers`` lists message
    headers to log, too, such as ``traceparent``. Do not list headers with personal data. Fields of events are
    never logged.
    """

    level: Level = "info"
    failure_level: Level = "warning"
    logger: str = attrs.field(default="promenade.bus.events", validator=attrs.validators.min_len(1))
    headers: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class TimeoutOptions:
    """The options of ``timeout``.

    ``seconds`` is the time limit of one attempt, or of one publish: ``30``, ``500ms`` or ``5m``.
    """

    seconds: Annotated[float, DURATION] = attrs.field(validator=_more_than_nothing)

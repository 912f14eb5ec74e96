"""The options of the observer, with the names used in the configuration. Times are seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs

from bus_core import DURATION

__all__ = ["SentryOptions"]


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{attribute.name} must be 0 or more, got {value!r}")


@attrs.frozen(kw_only=True)
class SentryOptions:
    """The failures to report, and what of them.

    - ``failures``: every failed attempt, or only the last one, which leaves a dead letter.
    - ``error_text``: also send the texts of exceptions, which may contain personal data.
    - ``flush``: how long closing the bus waits until the reports are sent.
    """

    failures: Literal["attempts", "dead-letters"] = "attempts"
    error_text: bool = False
    flush: Annotated[float, DURATION] = attrs.field(default=2.0, validator=_not_negative)

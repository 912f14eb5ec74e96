"""The options of the observer, as they stand in the configuration. Times are seconds."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import attrs

from bus_core import DURATION

__all__ = ["PrometheusOptions"]


def _ascending(_instance: object, _attribute: object, value: tuple[float, ...]) -> None:
    rises = all(first < second for first, second in pairwise((0.0, *value)))
    if not value or not rises:
        raise ValueError(f"buckets must be seconds above 0 in ascending order, got {list(value)!r}")


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} must be above 0, got {value!r}")


@attrs.frozen(kw_only=True)
class PrometheusOptions:
    """The metrics to measure, and the most series.

    - ``durations``: whether each call of a handler is timed, for the histogram; ``buckets`` are its bounds.
    - ``max_topics``, ``max_subscriptions``: how many have series of their own. Others are counted together,
      under the name ``(other)``.
    - ``lag_interval``: how often an adapter outside of the process is asked for the backlogs.
    - ``sync_interval``: in multi-process mode, how often the figures are written for the other processes.
    """

    durations: bool = True
    buckets: tuple[float, ...] = attrs.field(
        default=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
        validator=_ascending,
    )
    max_topics: int = attrs.field(default=200, validator=_positive)
    max_subscriptions: int = attrs.field(default=200, validator=_positive)
    lag_interval: Annotated[float, DURATION] = attrs.field(default=15.0, validator=_positive)
    sync_interval: Annotated[float, DURATION] = attrs.field(default=1.0, validator=_positive)

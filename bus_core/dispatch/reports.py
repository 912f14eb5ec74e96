"""The report of a shutdown: abandoned events, reported and logged."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from bus_core.dispatch.jobs import Job, JobLane
from bus_core.events.base import Event
from bus_core.runtime.logs import plain_logger

__all__ = ["Abandoned", "AbandonedState", "DrainReport", "Leftover", "abandoned"]

logger = plain_logger("promenade.bus")

AbandonedState: TypeAlias = Literal["queued", "running", "waiting for retry", "settling"]


@attrs.frozen
class Abandoned:
    """An event that was accepted but not settled when the bus was closed.

    ``settling``: its outcome was decided, but the adapter could not be told in time.
    """

    topic: str
    subscription: str
    event_id: str
    state: AbandonedState


@attrs.frozen
class DrainReport:
    """The result of closing the bus. ``seconds`` is the duration."""

    completed: bool
    abandoned: tuple[Abandoned, ...]
    seconds: float


Leftover: TypeAlias = "tuple[JobLane, Event | Job, AbandonedState]"
"""An unsettled event at the end of the engine: its lane, the event or job, and its progress."""


def abandoned(left: Leftover) -> Abandoned:
    """Logs an abandoned event, and returns its report."""
    lane, payload, state = left
    topic = payload.topic if isinstance(payload, Job) else lane.spec.topic
    item = Abandoned(topic, lane.spec.name, str(payload.event_id), state)
    logger.error(
        "abandoned at shutdown: topic=%s subscription=%s event_id=%s state=%s",
        item.topic,
        item.subscription,
        item.event_id,
        item.state,
    )
    return item

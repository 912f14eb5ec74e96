"""The audit trail. It knows no event class: whatever is published leaves a mark."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import attrs

from bus_core import Event
from crm.journal import JournaledBus

__all__ = ["AuditTrail", "Mark"]


@attrs.frozen
class Mark:
    """One event of the trail: ids and times, no personal data."""

    type: str
    event_id: UUID
    aggregate_id: UUID
    occurred_at: datetime


class AuditTrail:
    """Keeps a mark of every event, in the order in which they were handed over."""

    def __init__(self, bus: JournaledBus) -> None:
        self.marks: list[Mark] = []
        bus.subscribe("#", self.note, name="audit.trail")

    async def note(self, event: Event) -> None:
        """Writes the event down."""
        self.marks.append(Mark(event.type, event.event_id, event.aggregate_id, event.occurred_at))

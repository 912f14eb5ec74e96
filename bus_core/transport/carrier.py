"""The bus's view of an adapter: one carrier joins the engine and the adapter, from start to close."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from bus_core.abc import HealthStatus
from bus_core.dispatch.lane import Lane
from bus_core.dispatch.reports import DrainReport
from bus_core.events.base import Event
from bus_core.events.messages import Message
from bus_core.transport.routes import Route

__all__ = ["Carrier"]


class Carrier(Protocol):
    """Joins the engine and an adapter. One object of it lives from start to close."""

    @property
    def encodes(self) -> bool:
        """True when events are encoded on their way, so that some cannot be published."""
        ...

    @property
    def problem(self) -> tuple[HealthStatus, str] | None:
        """The reason that events cannot be carried now, for health."""
        ...

    def attach(self, lane: Lane) -> None:
        """The lane gets events from now on, or as soon as the adapter has opened it."""
        ...

    def detach(self, lane: Lane) -> None:
        """The lane gets no further events."""
        ...

    def pause_changed(self, lane: Lane) -> None:
        """The lane was paused or resumed."""
        ...

    async def opened(self, lane: Lane) -> None:
        """Returns when the lane misses nothing any more; raises ``UnknownSubscription`` if it never will."""
        ...

    async def left(self, lane: Lane) -> None:
        """Returns when all that a detached lane held on the adapter was given back."""
        ...

    def renew(self, route: Route) -> None:
        """Brings a route up to date with the attached lanes."""
        ...

    def accept(self, route: Route, event: Event, headers: Mapping[str, str]) -> Coroutine[Any, Any, None]:
        """Hands a checked event over; returns when the adapter has accepted it."""
        ...

    def hand_over(
        self, route: Route, event: Event, headers: Mapping[str, str]
    ) -> asyncio.Future[None] | None:
        """Begins to accept an event, after those handed over before; None where the caller has to wait first.

        The future is done when the adapter has accepted the event. Cancelling it takes back an event that was
        not sent yet. Raises the same errors as ``accept``.
        """
        ...

    async def backlogs(self, lanes: Sequence[Lane]) -> Sequence[int]:
        """The unsettled events of each lane, in all instances together."""
        ...

    def forward(self, route: Route, message: Message) -> Coroutine[Any, Any, None]:
        """Hands a message over as it is; returns when the adapter has accepted it."""
        ...

    def hand_on(self, route: Route, message: Message) -> asyncio.Future[None] | None:
        """Is to ``forward`` what ``hand_over`` is to ``accept``."""
        ...

    async def drain(self, lanes: Sequence[Lane]) -> None:
        """Waits until all events accepted so far, and those that their handling causes, are settled."""
        ...

    async def stop(self, lanes: Sequence[Lane], timeout: float) -> DrainReport:
        """Stops the lanes and the engine within ``timeout`` seconds, and reports abandoned events."""
        ...

"""The bus's view of an adapter: a carrier joins the engine and the adapter from start to close."""

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
    """Joins the engine and an adapter, from start to close."""

    @property
    def encodes(self) -> bool:
        """True when events are encoded on their way, so that some may fail to be."""
        ...

    @property
    def problem(self) -> tuple[HealthStatus, str] | None:
        """The reason for health that events cannot be carried now."""
        ...

    def attach(self, lane: Lane) -> None:
        """Gives the lane events, as soon as the adapter has opened it."""
        ...

    def detach(self, lane: Lane) -> None:
        """Gives the lane no further events."""
        ...

    def pause_changed(self, lane: Lane) -> None:
        """Tells the adapter that the lane was paused or resumed."""
        ...

    async def opened(self, lane: Lane) -> None:
        """Returns when the lane is open on the adapter.

        Raises ``UnknownSubscription`` if it never will be.
        """
        ...

    async def left(self, lane: Lane) -> None:
        """Returns when a detached lane has released everything it held on the adapter."""
        ...

    def refresh(self, route: Route) -> None:
        """Brings a route up to date with the attached lanes."""
        ...

    def accept(self, route: Route, event: Event, headers: Mapping[str, str]) -> Coroutine[Any, Any, None]:
        """Carries a checked event. Returns when the adapter has accepted it."""
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
        """The number of unsettled events of each lane, in all instances together."""
        ...

    def forward(self, route: Route, message: Message) -> Coroutine[Any, Any, None]:
        """Carries a message as it is. Returns when the adapter has accepted it."""
        ...

    def hand_on(self, route: Route, message: Message) -> asyncio.Future[None] | None:
        """Like ``hand_over``, for ``forward`` in place of ``accept``."""
        ...

    async def drain(self, lanes: Sequence[Lane]) -> None:
        """Waits until all events accepted so far, and those that their handling causes, are settled."""
        ...

    async def stop(self, lanes: Sequence[Lane], timeout: float) -> DrainReport:
        """Stops the lanes and the engine within ``timeout`` seconds, and reports abandoned events."""
        ...

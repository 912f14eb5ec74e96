"""Shared parts of tests of middleware: a middleware as the bus builds it, envelopes, and handlers."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from bus_core import BuildContext, Clock, Delivery, Envelope, Event, Handler, Middleware, Store, event
from bus_core.config import read_settings
from promenade_bus_middleware import promenade_bus_middleware
from promenade_bus_testing import VirtualClock

__all__ = [
    "EVENT_ID",
    "REGISTERED",
    "UserRegistered",
    "build",
    "delivered",
    "failing",
    "faults_of",
    "hang",
    "published",
    "succeed",
]


@event
class UserRegistered(Event):
    email: str


EVENT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
REGISTERED = UserRegistered(aggregate_id=UUID(int=1), event_id=EVENT_ID, email="ada@example.org")


def build(name: str, clock: Clock, store: Store | None = None, **options: Any) -> Middleware:
    """Make a middleware the way the bus does: from what the configuration file holds."""
    factory = promenade_bus_middleware()[name]
    faults: list[str] = []
    settings = read_settings(factory.options, options, f"$.bus.middleware.{name}", faults)
    assert faults == []
    stores = {} if store is None else {"store": store}
    return factory.build(settings, BuildContext(service="tests", clock=clock, stores=stores))


def faults_of(name: str, **options: Any) -> list[str]:
    faults: list[str] = []
    read_settings(promenade_bus_middleware()[name].options, options, f"$.{name}", faults)
    return faults


def published(topic: str = "identity.user.registered", **headers: str) -> Envelope:
    return Envelope(topic, REGISTERED, dict(headers))


def delivered(
    clock: VirtualClock, subscription: str = "welcome-mail", attempt: int = 1, **headers: str
) -> Envelope:
    delivery = Delivery(
        topic="identity.user.registered",
        subscription=subscription,
        message_id=str(EVENT_ID),
        attempt=attempt,
        redelivered=attempt > 1,
        published_at=clock.now(),
        headers=headers,
    )
    return Envelope("identity.user.registered", REGISTERED, dict(headers), delivery)


async def succeed(envelope: Envelope) -> None:
    pass


async def hang(envelope: Envelope) -> None:
    await asyncio.Event().wait()


def failing(error: BaseException) -> Handler:
    async def fail(envelope: Envelope) -> None:
        raise error

    return fail

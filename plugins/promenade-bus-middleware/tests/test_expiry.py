from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import attrs
import pytest

import promenade_bus_middleware
from bus_core import BaseEvent, Envelope, HealthStatus, WatchedMiddleware
from promenade_bus_testing import VirtualClock, isolated_bus
from support.middleware import UserRegistered, build, delivered, faults_of, succeed


def aged(clock: VirtualClock, age: float, subscription: str = "mail", **headers: str) -> Envelope:
    """An event on its way to a handler that happened some seconds ago."""
    envelope = delivered(clock, subscription, 1, **headers)
    envelope.event = happened(clock.now() - timedelta(seconds=age))
    return envelope


def happened(occurred_at: datetime) -> UserRegistered:
    return UserRegistered(aggregate_id=uuid4(), email="", occurred_at=occurred_at)


async def is_handled(middleware: object, envelope: Envelope) -> bool:
    handled = []

    async def handle(envelope: Envelope) -> None:
        handled.append(envelope)

    assert isinstance(middleware, WatchedMiddleware)
    await middleware(handle)(envelope)
    return bool(handled)


async def test_an_event_past_its_time(virtual_clock: VirtualClock) -> None:
    """An event is skipped from its expirytime on, whatever its age, and handled before."""
    expiry = build("expiry", virtual_clock, limit="1h")
    now = virtual_clock.now()
    past, future = (now - timedelta(seconds=1)).isoformat(), (now + timedelta(seconds=1)).isoformat()
    assert not await is_handled(expiry, aged(virtual_clock, 0, expirytime=now.isoformat()))
    assert not await is_handled(expiry, aged(virtual_clock, 0, expirytime=past.replace("+00:00", "Z")))
    assert await is_handled(expiry, aged(virtual_clock, 7200, expirytime=future))


async def test_limits_of_age(virtual_clock: VirtualClock) -> None:
    """The limit of the subscription counts, else that of the most specific topic, else the general one."""
    expiry = build(
        "expiry",
        virtual_clock,
        limit="1h",
        topics={"identity.#": "10m", "identity.user.*": "5m"},
        subscriptions={"audit": "1d"},
    )
    assert await is_handled(expiry, aged(virtual_clock, 299))
    assert not await is_handled(expiry, aged(virtual_clock, 300))
    assert await is_handled(expiry, aged(virtual_clock, 3600, "audit"))
    other = aged(virtual_clock, 1000)
    other.topic = "sales.order.placed"
    assert await is_handled(expiry, other)


async def test_without_a_limit(virtual_clock: VirtualClock) -> None:
    """Without a limit an event without expirytime is handled whatever its age."""
    assert await is_handled(build("expiry", virtual_clock), aged(virtual_clock, 10**9))


@pytest.mark.parametrize("text", ["soon", "2026-01-01T00:00:00", "2" * 65])
async def test_a_time_that_cannot_be_read(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """An expirytime that cannot be read is counted and logged, and the limit of the age applies."""
    expiry = build("expiry", virtual_clock, limit=60)
    assert await is_handled(expiry, aged(virtual_clock, 59, expirytime=text))
    assert not await is_handled(expiry, aged(virtual_clock, 60, expirytime=text))
    assert isinstance(expiry, WatchedMiddleware)
    assert expiry.counts() == {("mail", "unreadable expirytime"): 2, ("mail", "expired"): 1}
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "unreadable expirytime",
        "expired",
    ]


async def test_publishing_writes_the_time(virtual_clock: VirtualClock) -> None:
    """In the publish chain an event with a limit gets its expirytime, unless it has one."""
    expiry = build("expiry", virtual_clock, topics={"sales.#": "1m"})
    event = happened(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    limited, own, other = ({}, {"expirytime": "2030-01-01T00:00:00Z"}, {})
    for topic, headers in (("sales.order.placed", limited), ("sales.x.y", own), ("crm.a.b", other)):
        await expiry(succeed)(Envelope(topic, event, headers))
    assert limited == {"expirytime": "2026-01-02T03:05:05Z"}
    assert own == {"expirytime": "2030-01-01T00:00:00Z"}
    assert other == {}


async def test_a_time_beyond_the_calendar(virtual_clock: VirtualClock) -> None:
    """A time after the year 9999 cannot be written, and is left out."""
    last = happened(datetime(9999, 12, 31, tzinfo=UTC))
    headers: dict[str, str] = {}
    await build("expiry", virtual_clock, limit="30d")(succeed)(Envelope("sales.order.placed", last, headers))
    assert headers == {}


async def test_a_cloud_event_of_others(virtual_clock: VirtualClock) -> None:
    """The time may be an attribute of the CloudEvent, where a publisher of another kind puts it."""
    envelope = aged(virtual_clock, 0)
    assert envelope.delivery is not None
    body = b'{"specversion":"1.0","expirytime":"2001-01-01T00:00:00Z"}'
    envelope.delivery = attrs.evolve(envelope.delivery, body=body)
    assert not await is_handled(build("expiry", virtual_clock), envelope)


async def test_expired_events_are_settled_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A bus settles expired events without a dead letter; health and state count them, one log line tells."""
    caplog.set_level(logging.WARNING, "promenade.bus.events")
    handled = []
    async with isolated_bus(
        plugins=[promenade_bus_middleware], strict_topics=False, middleware=[{"expiry": {"limit": "1h"}}]
    ) as bus:

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent) -> None:
            handled.append(event)

        assert "middleware expiry" not in (await bus.health()).checks
        old = datetime.now(UTC) - timedelta(hours=2)
        for occurred_at in (old, datetime.now(UTC), old):
            event = BaseEvent("order.placed", uuid4(), occurred_at=occurred_at)
            await bus.publish("sales.order.placed", event)
        await bus.drain()
        check = (await bus.health()).checks["middleware expiry"]
        (count,) = bus.state().middleware
        assert await bus.dead_letters.list() == []
    assert len(handled) == 1
    assert (check.status, check.summary) == (HealthStatus.HEALTHY, "2 expired (mail)")
    assert check.figures == {"expired mail": 2}
    assert (count.middleware, count.subject, count.outcome, count.events) == ("expiry", "mail", "expired", 2)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("expired: event_id=")
    assert line.endswith("subscription=mail; it is skipped, and further ones are only counted (see health)")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"limit": 0}, "limit must be a time longer than 0 s"),
        ({"topics": {"a..b": 1}}, "a..b"),
        ({"topics": {"a.b": 0}}, "topics: the time of 'a.b' must be longer than 0 s"),
        ({"subscriptions": {"mail": "soon"}}, "soon"),
    ],
)
def test_faulty_options(options: dict[str, object], fault: str) -> None:
    """A limit that is no time, or is of no topic, is a fault."""
    (found,) = faults_of("expiry", **options)
    assert fault in found

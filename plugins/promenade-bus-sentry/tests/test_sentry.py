"""The observer ``sentry``, with the transport of the SDK replaced by one in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import uuid4

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from bus_core import BaseEvent, Bus, ConfigError, FixedRetry, NoRetry, Postpone, Topic, open_bus
from bus_core.abc import EventLoss
from bus_core.plugins import discover
from promenade_bus_sentry.config import SentryOptions
from promenade_bus_sentry.observing import observer

PLACED = Topic("sales.order.placed", BaseEvent)
PLANTED = "ada@example.org"


class InMemory(Transport):
    """Keeps what would be sent."""

    kept: ClassVar[list[Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.kept.append(envelope.get_event())


@pytest.fixture
def reports() -> Iterator[list[Any]]:
    """The reports so far, from a client of its own."""
    InMemory.kept.clear()
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=InMemory,
        default_integrations=False,
        auto_enabling_integrations=False,
        attach_stacktrace=True,
        release="shop@1",
    )
    yield InMemory.kept
    sentry_sdk.init()


def make_bus(options: dict[str, Any] | None = None) -> Bus:
    chosen: Any = {"sentry": options} if options else "sentry"
    bus = {"adapter": "memory", "service": "shop", "strict_topics": False, "observers": [chosen]}
    return open_bus({"bus": bus})


def deep(text: str) -> None:
    secret = text  # a local variable
    raise LookupError(f"no price for {secret}")


async def failing(event: BaseEvent) -> None:
    sentry_sdk.set_user({"email": PLANTED})
    sentry_sdk.add_breadcrumb(message=PLANTED)
    try:
        deep(str(event.data["email"]))
    except LookupError as error:
        raise ValueError(PLANTED) from error


async def publish(bus: Bus) -> BaseEvent:
    event = BaseEvent("order.placed", uuid4(), data={"email": PLANTED})
    await bus.publish(PLACED, event, headers={"who": PLANTED})
    await bus.drain()
    return event


async def test_each_failed_attempt_is_reported(reports: list[Any]) -> None:
    """A report has the place, the ids and names as tags, the frames of error and cause, and what follows."""
    async with make_bus() as bus:
        bus.subscribe(PLACED, failing, name="stock", retry=FixedRetry(attempts=2, delay=0.001))
        event = await publish(bus)
    first, last = reports
    assert (first["level"], first["tags"]["promenade.action"]) == ("warning", "retry")
    assert (last["level"], last["tags"]["promenade.action"]) == ("error", "dead_letter")
    place = last["tags"].pop("promenade.place")
    assert place.endswith(" in failing")
    assert "test_sentry.py:" in place
    assert last["tags"] == {
        "promenade.service": "shop",
        "promenade.topic": "sales.order.placed",
        "promenade.subscription": "stock",
        "promenade.event_id": str(event.event_id),
        "promenade.attempt": "2",
        "promenade.action": "dead_letter",
    }
    cause, error = last["exception"]["values"]
    assert (cause["type"], error["type"], error["module"]) == ("LookupError", "ValueError", "builtins")
    frame = cause["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["module"], frame["in_app"]) == ("deep", __name__, True)
    assert error["stacktrace"]["frames"][0]["in_app"] is False
    assert first["fingerprint"] == last["fingerprint"]
    assert last["fingerprint"][1::2] == ["ValueError", "stock"]
    assert (last["release"], last["transaction"]) == ("shop@1", "stock")


async def test_nothing_personal_is_sent(reports: list[Any]) -> None:
    """No field, header, variable, text or scope gets into a report; texts of errors do when asked for."""
    async with make_bus() as bus:
        bus.subscribe(PLACED, failing, name="stock", retry=NoRetry())
        await publish(bus)
    assert len(reports) == 1
    assert PLANTED not in json.dumps(reports, default=str)
    async with make_bus({"error_text": True}) as bus:
        bus.subscribe(PLACED, failing, name="stock", retry=NoRetry())
        await publish(bus)
    cause, error = reports[1]["exception"]["values"]
    assert (cause["value"], error["value"]) == (f"no price for {PLANTED}", PLANTED)
    assert {"user", "breadcrumbs", "request"} & {name for name, value in reports[1].items() if value} == set()


async def test_only_dead_letters(reports: list[Any]) -> None:
    """With ``failures: dead-letters`` only the last attempt of an event is reported."""
    async with make_bus({"failures": "dead-letters"}) as bus:
        bus.subscribe(PLACED, failing, name="stock", retry=FixedRetry(attempts=3, delay=0.001))
        await publish(bus)
    [report] = reports
    assert report["tags"]["promenade.attempt"] == "3"


async def test_a_postponement_is_no_failure(reports: list[Any]) -> None:
    """An attempt that is postponed is not reported, and neither is success."""
    calls = 0

    async def later(event: BaseEvent) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Postpone(after=0.001)

    async with make_bus() as bus:
        bus.subscribe(PLACED, later, name="stock")
        await publish(bus)
    assert (calls, reports) == (2, [])


def test_a_loss_is_fatal(reports: list[Any]) -> None:
    """A lost event is reported with its ids and the reason."""
    lost = observer(SentryOptions(), "shop").lost
    assert lost is not None
    lost(EventLoss(topic="sales.order.placed", subscription="stock", event_id="7", reason="no disk: OSError"))
    [report] = reports
    assert (report["level"], report["logentry"]["message"]) == ("fatal", "lost an event: no disk: OSError")
    assert report["tags"]["promenade.event_id"] == "7"
    assert not report["threads"]["values"]


async def test_without_a_client_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Without sentry_sdk.init() a warning says what to do, and failures have no other effect."""
    sentry_sdk.init()
    with caplog.at_level(logging.WARNING, "promenade.bus.sentry"):
        async with make_bus() as bus:
            bus.subscribe(PLACED, failing, name="stock", retry=NoRetry())
            await publish(bus)
            assert len(await bus.dead_letters.list()) == 1
    assert "call sentry_sdk.init(dsn=...) before the bus starts" in caplog.text


def test_faulty_options_are_told_with_their_path() -> None:
    """An unknown value and a negative time are faults of the configuration."""
    with pytest.raises(ConfigError) as caught:
        make_bus({"failures": "none", "flush": -1})
    assert "$.bus.observers[0].sentry.failures" in str(caught.value)
    assert "$.bus.observers[0].sentry.flush" in str(caught.value)


def test_it_is_found() -> None:
    """The installed distribution offers one observer."""
    assert discover().observers.select("sentry").origin.startswith("promenade-bus-sentry ")

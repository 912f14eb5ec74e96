from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    AttemptFailure,
    BusStateError,
    FixedRetry,
    Message,
    PermanentError,
    Postpone,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, Happened, close_now, happened, make_bus, running_bus, state_of
from support.handlers import listen
from support.inline_plugins import middleware_plugin, noting

either_way = pytest.mark.parametrize("serialize", [False, True], ids=["objects", "serialized"])


@either_way
async def test_instruments_come_next_to_the_engine(serialize: bool) -> None:
    """An instrument is around all consume middleware, and inside of all publish middleware."""
    notes: list[str] = []
    bus = make_bus(
        memory={"serialize": serialize},
        plugins=[middleware_plugin(mine=noting("mine", notes))],
        middleware={"consume": ["mine"], "publish": ["mine"]},
    )
    before = listen(bus, name="before")
    bus.instrument(consume=noting("consume", notes), publish=noting("publish", notes))
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert notes == [
            *("mine in", "publish in", "publish out", "mine out"),
            *("consume in", "mine in", "mine out", "consume out"),
        ]
        notes.clear()
        after = listen(bus, name="after")
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
        assert notes.count("consume in") == notes.count("consume out") == 2
    assert [event.number for event in before] == [1, 2]
    assert [event.number for event in after] == [2]


async def test_a_plain_handler_is_instrumented_too() -> None:
    """Without any middleware in the configuration, an instrument sees every attempt all the same."""
    notes: list[str] = []
    bus = make_bus()
    received = listen(bus)
    bus.instrument(consume=noting("consume", notes))
    async with bus:
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert notes == ["consume in", "consume out"]
    assert len(received) == 1


async def test_failures_are_told_with_what_follows(virtual_clock: VirtualClock) -> None:
    """An observer learns of each failed attempt whether it is retried, postponed or buried."""
    told: list[AttemptFailure] = []
    bus = make_bus(virtual_clock)
    errors = iter([ValueError("first"), Postpone(after=5), PermanentError("never")])

    @bus.subscribe(HAPPENED, name="unlucky", retry=FixedRetry(attempts=9, delay=2))
    async def unlucky(event: Happened) -> None:
        raise next(errors)

    bus.instrument(failure=told.append)
    async with bus:
        event = happened()
        await bus.publish(HAPPENED, event)
        await virtual_clock.advance(10)
    assert [(each.action, each.attempt, each.delay) for each in told] == [
        ("retry", 1, 2.0),
        ("postpone", 2, 5.0),
        ("dead_letter", 2, 0.0),
    ]
    assert str(told[0].error) == "first"
    assert told[2].reason == "the handler raised PermanentError"
    assert {(each.topic, each.subscription, each.event_id) for each in told} == {
        ("test.thing.happened", "unlucky", str(event.event_id))
    }
    assert told[0].event == event


async def test_what_cannot_be_decoded_is_told() -> None:
    """No middleware sees a message that cannot be decoded; an observer of failures does."""
    told: list[AttemptFailure] = []
    bus = make_bus(memory={"serialize": True})
    listen(bus)
    bus.instrument(failure=told.append)
    async with bus:
        adapter: Any = bus.adapter
        route = adapter.route(HAPPENED.name)
        message = Message(str(uuid4()), HAPPENED.name, "key", b"no JSON")
        engine = route[0][0].engine
        engine.put(HAPPENED.name, message, [route[0][0]])
        await bus.drain()
    (only,) = told
    assert (only.event, only.action, only.reason) == (None, "dead_letter", "cannot be decoded")


async def test_an_observer_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An error of an observer is logged with its class and place, and the attempt goes on as usual."""

    def broken(failure: AttemptFailure) -> None:
        raise SystemExit("secret")

    bus = make_bus(retry_attempts=1)

    @bus.subscribe(HAPPENED, name="unlucky")
    async def unlucky(event: Happened) -> None:
        raise ValueError

    bus.instrument(failure=broken)
    async with bus:
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert state_of(bus).dead_lettered == 1
        assert bus.state().lost == 0
    (line,) = [record for record in caplog.records if "observer" in record.getMessage()]
    assert line.levelno == logging.ERROR
    assert line.getMessage().startswith("an observer of failed attempts raised SystemExit at ")
    assert "secret" not in line.getMessage()


async def test_a_bus_that_was_started_cannot_be_instrumented() -> None:
    """Instruments have to be there before the first event; later is an error that says so."""
    async with running_bus() as bus:
        with pytest.raises(BusStateError, match=r"the bus is open; do it before the bus is started"):
            bus.instrument(failure=print)
    with pytest.raises(BusStateError, match="the bus is closed"):
        bus.instrument(failure=print)


async def test_installed_plugins_may_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``installed=False`` no metadata is read, and only plugins given in code are there."""

    def read() -> object:
        raise AssertionError("metadata was read")

    monkeypatch.setattr("bus_core.plugins.discovery.installed_entry_points", read)
    bus = make_bus()
    assert {plugin.name for plugin in bus.parts.plugins.installed} == {"builtins", "promenade_bus_memory"}
    await close_now(bus)

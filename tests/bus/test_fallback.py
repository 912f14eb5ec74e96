"""The fallback of an adapter that does not start, and the hints of a configuration about plugins."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    ConfigError,
    DeadLetterFilter,
    Event,
    Factory,
    HealthStatus,
    PluginError,
    Topic,
    UnknownPlugin,
    UnknownSubscription,
    event,
    hookimpl,
    open_bus,
)
from promenade_bus_memory.adapter import MemoryAdapter
from promenade_bus_memory.config import MemoryOptions
from support.distributions import hide_distribution


@event
class Noted(Event):
    text: str = ""


NOTED = Topic("test.note.noted", Noted)


class Unreachable(MemoryAdapter):
    name = "unreachable"

    async def start(self) -> None:
        raise ConnectionError("secret@leak.example refused")


class BrokenStore(MemoryAdapter):
    name = "broken-store"

    def bury(self, letter: Any, payload: Any, inlet: Any) -> None:
        raise OSError("disk of secret@leak.example is full")


def offering(name: str, build: Any) -> SimpleNamespace:
    @hookimpl
    def promenade_bus_adapters() -> dict[str, Factory[Any, Any]]:
        return {name: Factory(MemoryOptions, build)}

    return SimpleNamespace(promenade_bus_adapters=promenade_bus_adapters)


def unreachable_bus(**settings: Any) -> Any:
    plugin = offering("unreachable", lambda options, context: Unreachable(options))
    return open_bus({"bus": {"adapter": "unreachable", **settings}}, plugins=[plugin])


async def test_no_quiet_fallback() -> None:
    """An adapter that does not start is an error, never a quiet change to another one."""
    with pytest.raises(ConnectionError):
        await unreachable_bus().start()


async def test_fallback_is_degraded() -> None:
    """A fallback that was asked for carries the events, and health is degraded and says why."""
    got: list[Event] = []
    async with unreachable_bus(fallback="memory") as bus:
        bus.subscribe(NOTED, got.append)
        await bus.publish(NOTED, Noted(aggregate_id=uuid4()))
        await bus.drain()
        report = await bus.health()
    assert len(got) == 1
    assert report.status is HealthStatus.DEGRADED
    summary = report.checks["bus"].summary
    assert "'unreachable' did not start (ConnectionError), and 'memory' took its place" in summary
    assert "secret" not in summary


async def test_fallback_is_not_needed() -> None:
    """A fallback changes nothing where the selected adapter starts."""
    plugin = offering("other", lambda options, context: MemoryAdapter(options))
    async with open_bus({"bus": {"adapter": "other", "fallback": "memory"}}, plugins=[plugin]) as bus:
        assert (await bus.health()).status is HealthStatus.HEALTHY


async def test_failing_store_leaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A letter that the store cannot keep is counted as lost, and the log shows no text of any error."""
    caplog.set_level(logging.DEBUG)

    async def fail(_event: Event) -> None:
        raise ValueError("secret@leak.example")

    plugin = offering("broken", lambda options, context: BrokenStore(options))
    async with open_bus({"bus": {"adapter": "broken", "retry_attempts": 1}}, plugins=[plugin]) as bus:
        bus.subscribe(NOTED, fail, name="fails")
        await bus.publish(NOTED, Noted(aggregate_id=uuid4()))
        await bus.drain()
        assert bus.state().lost == 1
        assert (await bus.health()).status is HealthStatus.DEGRADED
    assert "the dead-letter store failed with OSError at " in caplog.text
    assert "secret@leak" not in caplog.text


def test_all_unknown_plugins_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several names that nobody offers are reported together, each with its place."""
    for name in ("postgres", "redis", "sqlite"):
        hide_distribution(monkeypatch, f"promenade-bus-{name}")
    with pytest.raises(ConfigError) as caught:
        open_bus({"bus": {"adapter": "memry", "serializer": "xml", "middleware": ["loging"]}})
    text = str(caught.value)
    assert "unknown adapter 'memry'; did you mean 'memory'? installed: memory @ $.bus.adapter" in text
    assert "unknown serializer 'xml'; installed: avro, json, msgspec @ $.bus.serializer" in text
    assert re.search(
        r"unknown middleware 'loging'; did you mean 'logging'\? installed: chaos, [-a-z, ]*logging, "
        r"[-a-z, ]*timeout[-a-z, ]* @ \$\.bus\.middleware\[0\]",
        text,
    )


@pytest.mark.parametrize(("adapter", "words"), [("", "to install one"), ("kafka", "available")])
def test_what_to_install(adapter: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown or missing adapter says what is installed, what can be, and where to name it."""
    for name in ("postgres", "redis", "sqlite"):
        hide_distribution(monkeypatch, f"promenade-bus-{name}")
    installs = ", ".join(f"pip install promenade-bus-{name}" for name in ("postgres", "redis", "sqlite"))
    with pytest.raises(
        UnknownPlugin,
        match=rf"installed: memory; {words}: {installs} @ \$\.bus\.adapter",
    ):
        open_bus({"bus": {"adapter": adapter}})


def test_a_build_that_raises() -> None:
    """A plugin that cannot build its part is named with its distribution and the place that selects it."""

    def build(_options: Any, _context: Any) -> Any:
        raise RuntimeError("no luck")

    with pytest.raises(
        PluginError,
        match=r"the adapter 'unlucky' of .* cannot be built: RuntimeError: no luck @ \$\.bus\.unlucky",
    ):
        open_bus({"bus": {"adapter": "unlucky"}}, plugins=[offering("unlucky", build)])


async def test_redrive_of_an_unknown_subscription() -> None:
    """A filter that names a subscription which never was is an error rather than nothing to do."""
    async with open_bus({"bus": {"adapter": "memory"}}) as bus:
        with pytest.raises(UnknownSubscription, match="no subscription 'nope'"):
            await bus.dead_letters.redrive(DeadLetterFilter(subscription="nope"))


async def test_any_event_on_an_undeclared_topic() -> None:
    """Without strict topics a script may publish any class of event to any name; serialized it is untyped."""
    for serialize, kind in ((False, Noted), (True, BaseEvent)):
        got: list[Event] = []
        settings = {"adapter": "memory", "strict_topics": False, "memory": {"serialize": serialize}}
        async with open_bus({"bus": settings}) as bus:
            bus.subscribe("script.#", got.append, name="all")
            await bus.publish("script.made.up", Noted(aggregate_id=uuid4(), text="hi"))
            await bus.drain()
        assert [type(item) for item in got] == [kind]


def test_the_type_belongs_to_the_class() -> None:
    """The type name can be read from the class as well as from an event."""
    assert Noted.type == Noted(aggregate_id=uuid4()).type == "noted"

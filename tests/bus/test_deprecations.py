"""Deprecated topics and fields: publishers and subscribers are warned once, at their own line."""

from __future__ import annotations

import asyncio
import linecache
import warnings
from typing import Annotated, Any
from uuid import uuid4

import attrs
import pytest

from bus_core import Deprecated, Event, InvalidTopic, Personal, SyncBus, Topic, event
from bus_core.events import model_of
from bus_core.serialization import schema_of
from support.buses import HAPPENED, Happened, happened, make_bus, running_bus
from support.handlers import ignore


@event
class Renamed(Event):
    """Has a field that goes away, and its successor."""

    name: Annotated[str, Deprecated("use display_name")] = ""
    tags: Annotated[tuple[str, ...], Deprecated("nobody reads them")] = attrs.field(factory=tuple)
    display_name: str = ""


TOPIC = Topic("test.user.renamed", Renamed)
GONE = Topic("test.thing.gone", Happened, deprecated="nothing happens")
OLD = Topic("test.user.old", Renamed, deprecated="use test.user.renamed")


def renamed(**fields: Any) -> Renamed:
    return Renamed(aggregate_id=uuid4(), **fields)


async def test_publishing_on_a_deprecated_topic_warns_once() -> None:
    """The first event on the topic warns, at the line that publishes it; later ones do not."""
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match=r"'test.user.old' is deprecated, and this publishes"):
            await bus.publish(OLD, renamed())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await bus.publish(OLD, renamed())
            await bus.publish(OLD.name, renamed())


async def test_the_warning_names_the_line_of_the_application() -> None:
    """A person finds the call of the bus by the file and line of the warning."""
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match="publishes on it") as published:
            await bus.publish(GONE, happened())
        with pytest.warns(DeprecationWarning, match="subscribes to it") as called:
            bus.subscribe(GONE, ignore, name="a")
        with pytest.warns(DeprecationWarning, match="subscribes to it") as decorated:
            bus.subscribe(GONE, name="b")(ignore)
        found = [*published, *called, *decorated]
        assert {warning.filename for warning in found} == {__file__}


async def test_a_call_from_another_thread_names_its_line() -> None:
    """The loop of the bus makes the call, and the warning names the line in the thread that waits for it."""
    with SyncBus(make_bus()) as sync_bus:
        with pytest.warns(DeprecationWarning, match="publishes on it") as published:
            sync_bus.publish(GONE, happened())
        with pytest.warns(DeprecationWarning, match="subscribes to it") as subscribed:
            sync_bus.subscribe(GONE, ignore, name="a")
        with pytest.warns(DeprecationWarning, match="'name' of Renamed") as several:
            sync_bus.publish_many([(TOPIC, renamed(name="Ada"))])
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match="publishes on it") as from_thread:
            await asyncio.to_thread(lambda: bus.from_thread.publish(GONE, happened()))
    found = [*published, *subscribed, *several, *from_thread]
    assert {each.filename for each in found} == {__file__}
    calls = ["sync_bus.publish(", "sync_bus.subscribe(", "sync_bus.publish_many(", "from_thread.publish("]
    for call, each in zip(calls, found, strict=True):
        assert call in linecache.getline(__file__, each.lineno)


async def test_a_call_in_a_task_of_its_own_is_nobodys_line() -> None:
    """A task that runs the call alone has no line of the application: none that is wrong is named."""
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match="publishes on it") as found:
            await asyncio.create_task(bus.publish(GONE, happened()))
    assert found[0].filename == asyncio.events.__file__


async def test_a_plugin_is_not_the_caller() -> None:
    """Where a plugin publishes for the application, the warning names the line that called the plugin."""
    names: dict[str, Any] = {}
    source = "async def hand_on(bus, *item):\n    await bus.publish(*item)"
    exec(compile(source, "/opt/promenade_bus_extra/outbox.py", "exec"), names)
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match="publishes on it") as found:
            await names["hand_on"](bus, GONE, happened())
    assert found[0].filename == __file__


async def test_setting_a_deprecated_field_warns_once() -> None:
    """Only a publisher that gives the field a value is warned, also after events without one."""
    async with running_bus() as bus:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                await bus.publish(TOPIC, renamed(display_name="Ada"))
        with pytest.warns(DeprecationWarning, match="'name' of Renamed is deprecated, and this sets it: use"):
            await bus.publish(TOPIC, renamed(name="Ada"))
        with pytest.warns(DeprecationWarning, match="nobody reads them") as found:
            await bus.publish(TOPIC, renamed(name="Ada", tags=("a",)))
        assert len(found) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await bus.publish(TOPIC, renamed(name="Ada", tags=("a",)))


async def test_a_prepared_event_warns_too() -> None:
    """An event that an outbox prepares warns like one that is published."""
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match="and this publishes on it: use test.user.renamed"):
            await bus.prepare(OLD, renamed())


async def test_a_prepared_message_hides_no_warning() -> None:
    """Messages that were prepared elsewhere are sent without a look, and the first own event still warns."""
    async with running_bus() as other, running_bus() as bus:
        message = await other.prepare(HAPPENED, happened())
        assert message is not None
        gone = attrs.evolve(message, topic=GONE.name)
        bus.parts.registry.declare(GONE)
        bus.subscribe("test.#", ignore, name="all")
        for _ in range(2):
            await bus.publish_prepared([gone])
        with pytest.warns(DeprecationWarning, match="publishes on it"):
            await bus.publish(GONE, happened())


async def test_a_subscriber_is_warned() -> None:
    """A subscription to the topic is warned of it and of its fields; one to a pattern is not."""
    async with running_bus() as bus:
        with pytest.warns(DeprecationWarning, match="deprecated") as found:
            bus.subscribe(OLD, ignore, name="one")
        assert [str(warning.message) for warning in found] == [
            "the topic 'test.user.old' is deprecated, and this subscribes to it: use test.user.renamed",
            "the field 'name' of Renamed is deprecated: use display_name",
            "the field 'tags' of Renamed is deprecated: nobody reads them",
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bus.subscribe("test.#", ignore, name="all")


async def test_a_warning_that_is_an_error_subscribes_nothing() -> None:
    """With -W error the call fails and leaves no subscription behind."""
    async with running_bus() as bus:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DeprecationWarning):
                bus.subscribe(OLD, ignore, name="one")
        assert bus.subscriptions == ()


def test_the_mark_is_found_wherever_it_is() -> None:
    """A mark counts beside Personal, and on an alternative of a union; the schema shows it."""

    @attrs.frozen
    class Address:
        street: Annotated[str, Deprecated("use lines")] = ""

    @event
    class Moved(Event):
        one: Personal[Annotated[str, Deprecated("a")]] = ""
        two: Annotated[str, Deprecated("b")] | None = None
        three: str = ""
        address: Address = Address()

    fields = model_of(Moved).own.fields
    assert [field.deprecated for field in fields] == ["a", "b", None, None]
    schema = schema_of(Moved)
    assert schema["properties"]["two"]["x-deprecated"] == "b"
    assert schema["properties"]["one"] == {
        "type": "string",
        "x-personal": True,
        "deprecated": True,
        "x-deprecated": "a",
    }
    assert schema["$defs"]["Address"]["properties"]["street"]["deprecated"] is True


@pytest.mark.parametrize("advice", ["", True, 1])
def test_advice_is_text(advice: Any) -> None:
    """A deprecation without advice is refused."""
    with pytest.raises(InvalidTopic, match="deprecated is what to do instead"):
        Topic("test.a.b", Renamed, deprecated=advice)

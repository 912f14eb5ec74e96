from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    BufferFull,
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    Envelope,
    Event,
    EventTypeMismatch,
    Features,
    Handler,
    InvalidTopic,
    PublishFailed,
    PublishManyError,
    PublishUncertain,
    SerializationError,
    Topic,
    TopicCatalogue,
    TopicConflict,
    UnknownTopic,
    UnsupportedFeature,
    WrongEventLoop,
    event,
    hookimpl,
)
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of, until
from support.handlers import Collecting, listen
from support.inline_plugins import MemoryWith, adapter_plugin, middleware_plugin, noting

ANYTHING = Topic("test.anything.noted", BaseEvent)


@event
class Detailed(Happened):
    """A subclass of a topic's class, with a field of its own."""

    detail: str = ""


@event
class Unrelated(Event):
    """No class of any topic here."""


class Catalogues:
    """A plugin with one catalogue."""

    @hookimpl
    def promenade_bus_topics(self) -> list[TopicCatalogue]:
        return [TopicCatalogue("test", [HAPPENED, OTHER])]


# --- who gets it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialize", [False, True])
async def test_publish_and_subscribe(serialize: bool) -> None:
    """A published event reaches the handler of its topic, equal to what was published."""
    async with running_bus(memory={"serialize": serialize}) as bus:
        received = listen(bus)
        published = happened(7)
        await bus.publish(HAPPENED, published)
        await bus.drain()
    assert received == [published]
    assert type(received[0]) is Happened
    assert (received[0] is published) is not serialize


async def test_fan_out() -> None:
    """Each subscription of a topic gets each event once, in the order of publishing; others get none."""
    async with running_bus() as bus:
        received = [listen(bus, name=f"listener-{number}") for number in range(20)]
        elsewhere = listen(bus, OTHER, name="elsewhere")
        events = [happened(number) for number in range(50)]
        for published in events:
            await bus.publish(HAPPENED, published)
        await bus.drain()
    assert received == [events] * 20
    assert elsewhere == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("#", ["shop.order.paid", "shop.order", "shop.order.line.added", "crm.order.paid"]),
        ("shop.#", ["shop.order.paid", "shop.order", "shop.order.line.added"]),
        ("shop.order.*", ["shop.order.paid"]),
        ("*.order.paid", ["shop.order.paid", "crm.order.paid"]),
        ("#.paid", ["shop.order.paid", "crm.order.paid"]),
        ("shop.#.added", ["shop.order.line.added"]),
        ("*.*", ["shop.order"]),
    ],
)
async def test_patterns(pattern: str, expected: list[str]) -> None:
    """A pattern gets the topics that it matches: ``*`` is one word, ``#`` zero or more."""
    names = ["shop.order.paid", "shop.order", "shop.order.line.added", "crm.order.paid"]
    received: list[str] = []

    async def note(_event: Event, delivery: Delivery) -> None:
        received.append(delivery.topic)

    async with running_bus() as bus:
        bus.subscribe(pattern, note, name="pattern")
        for name in names:
            await bus.publish(Topic(name, Happened), happened())
        await bus.drain()
    assert received == expected


async def test_topic_and_pattern_and_a_topic_that_comes_later() -> None:
    """A pattern gets topics that became known after it was subscribed, beside their own subscriptions."""
    async with running_bus() as bus:
        by_pattern = listen(bus, "test.#", name="by-pattern")
        await bus.publish(HAPPENED, happened(1))
        late = Topic("test.late.happened", Happened)
        by_topic = listen(bus, late, name="by-topic")
        await bus.publish(late, happened(2))
        await bus.publish(late, happened(3))
        await bus.drain()
    assert [event.number for event in by_pattern] == [1, 2, 3]
    assert [event.number for event in by_topic] == [2, 3]


async def test_publish_to_nobody() -> None:
    """An event that nobody subscribed to is accepted, and counted as such."""
    async with running_bus() as bus:
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert (bus.state().published, bus.state().unrouted, bus.state().unsettled) == (1, 1, 0)


async def test_many_publishers_at_once() -> None:
    """Events of many tasks at once arrive, each once, through a buffer much smaller than their number."""
    async with running_bus(buffer_size=3, worker_pool_size=2) as bus:
        received = listen(bus)

        async def publish(task: int) -> None:
            for number in range(20):
                await bus.publish(HAPPENED, happened(task * 20 + number))

        await asyncio.gather(*(publish(task) for task in range(50)))
        await bus.drain()
    assert sorted(event.number for event in received) == list(range(1000))


async def test_two_buses_are_isolated() -> None:
    """Two buses in one process share nothing: no events, no topics, no counters."""
    async with running_bus() as first, running_bus() as second:
        received_by_first, received_by_second = listen(first, "#"), listen(second, "#")
        await first.publish(HAPPENED, happened(1))
        await first.drain()
        await second.drain()
        assert [event.number for event in received_by_first] == [1]
        assert received_by_second == []
        assert HAPPENED.name in first.topics
        assert HAPPENED.name not in second.topics
        assert second.state().published == 0


# --- what can be wrong ------------------------------------------------------------------------------------

Publish = Callable[[Bus, Any, Any], Awaitable[None]]


async def _publish(bus: Bus, topic: Any, event: Any) -> None:
    await bus.publish(topic, event)


async def _publish_nowait(bus: Bus, topic: Any, event: Any) -> None:
    bus.publish_nowait(topic, event)


async def _publish_with_headers(bus: Bus, topic: Any, event: Any) -> None:
    await bus.publish(topic, event, headers={"trace": "1"})


async def _publish_many(bus: Bus, topic: Any, event: Any) -> None:
    try:
        await bus.publish_many([(topic, event)])
    except PublishManyError as error:
        (result,) = error.results
        raise result or AssertionError("an error without an error") from None


async def _publish_in_after_commit(bus: Bus, topic: Any, event: Any) -> None:
    async with bus.after_commit():
        await bus.publish(topic, event)


ways_to_publish = pytest.mark.parametrize(
    "publish",
    [_publish, _publish_nowait, _publish_with_headers, _publish_many, _publish_in_after_commit],
    ids=["publish", "nowait", "headers", "many", "after-commit"],
)


@ways_to_publish
async def test_publish_before_start(publish: Publish) -> None:
    """A bus that was not started says so, and how to start it."""
    bus = make_bus()
    with pytest.raises(BusNotStarted, match=re.escape("not started; use 'async with bus:'")):
        await publish(bus, HAPPENED, happened())


@ways_to_publish
async def test_publish_after_close(publish: Publish) -> None:
    """A closed bus says that it is closed, also to who published on it before."""
    async with running_bus() as bus:
        received = listen(bus)
        await publish(bus, HAPPENED, happened())
        await publish(bus, HAPPENED, happened())
    with pytest.raises(BusClosed, match="closed"):
        await publish(bus, HAPPENED, happened())
    assert bus.state().published == len(received) == 2


async def test_publish_while_closing() -> None:
    """A bus that is closing takes events of its handlers, which it then handles, and no others."""
    begun, finish = asyncio.Event(), asyncio.Event()
    caused: list[int] = []
    bus = make_bus()
    await bus.start()

    async def slow(event: Happened) -> None:
        begun.set()
        await finish.wait()
        await bus.publish(OTHER, happened(event.number + 1))

    async def note(event: Happened) -> None:
        caused.append(event.number)

    bus.subscribe(HAPPENED, slow)
    bus.subscribe(OTHER, note)
    await bus.publish(HAPPENED, happened(1))
    await begun.wait()
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    with pytest.raises(BusClosed, match="closed"):
        await bus.publish(HAPPENED, happened())
    with pytest.raises(BusClosed, match="closed"):
        bus.subscribe(HAPPENED, note, name="late")
    finish.set()
    report = await closing
    assert report.completed
    assert caused == [2]


@ways_to_publish
async def test_unknown_topic(publish: Publish) -> None:
    """A topic given by a name that no catalogue declares is an error with the nearest known names."""
    async with running_bus(plugins=[Catalogues()]) as bus:
        with pytest.raises(UnknownTopic) as caught:
            await publish(bus, "test.thing.hapened", happened())
        assert caught.value.nearest[0] == "test.thing.happened"
        assert str(caught.value).startswith(
            "unknown topic 'test.thing.hapened'; did you mean 'test.thing.happened'"
        )
        with pytest.raises(UnknownTopic, match="no installed catalogue declares it"):
            await publish(bus, "quite.another.name", happened())
        await publish(bus, "test.thing.happened", happened())


@ways_to_publish
@pytest.mark.parametrize("name", ["test.*.happened", "#", "", "a..b", "a b"])
async def test_bad_topic_name(publish: Publish, name: str) -> None:
    """Patterns, and names that break the rules, cannot be published to, not even where any name will do."""
    async with running_bus(strict_topics=False) as bus:
        with pytest.raises(InvalidTopic):
            await publish(bus, name, BaseEvent("happened", uuid4()))


@ways_to_publish
@pytest.mark.parametrize("topic", [None, 5, ["test"], Happened, Happened(aggregate_id=uuid4())])
async def test_no_topic_at_all(publish: Publish, topic: Any) -> None:
    """Something that is neither a Topic nor a name is an error that says what is expected."""
    async with running_bus() as bus:
        with pytest.raises(InvalidTopic, match="a topic is a Topic or the name of one, got"):
            await publish(bus, topic, happened())


@ways_to_publish
@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (Unrelated(aggregate_id=uuid4()), "Unrelated"),
        (BaseEvent("happened", uuid4()), "bus_core.events.base.BaseEvent"),
        ("happened", "builtins.str"),
        (None, "builtins.NoneType"),
        (Happened, "builtins.type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_event_of_another_class(publish: Publish, wrong: Any, shown: str) -> None:
    """An event that is not of the topic's class is refused with both classes named."""
    async with running_bus() as bus:
        received = listen(bus)
        await publish(bus, HAPPENED, happened())
        with pytest.raises(EventTypeMismatch) as caught:
            await publish(bus, HAPPENED, wrong)
        await bus.drain()
        assert len(received) == bus.state().published == 1
    text = str(caught.value)
    assert text.startswith("topic 'test.thing.happened' carries support.buses.Happened, got ")
    assert text.endswith(shown)


@ways_to_publish
@pytest.mark.parametrize("serialize", [False, True])
async def test_event_of_a_subclass(publish: Publish, serialize: bool) -> None:
    """An event of a subclass is refused on every adapter alike: as bytes it could not be decoded again."""
    async with running_bus(memory={"serialize": serialize}) as bus:
        listen(bus)
        await publish(bus, HAPPENED, happened())
        with pytest.raises(
            EventTypeMismatch, match=r"Detailed, a subclass, which could not be decoded again"
        ):
            await publish(bus, HAPPENED, Detailed(aggregate_id=uuid4(), detail="more"))
        await bus.drain()
        assert bus.state().published == 1


async def test_a_topic_of_any_event() -> None:
    """A topic of the class Event carries events of every class."""
    anything = Topic("test.anything.happened", Event)
    async with running_bus() as bus:
        received = listen(bus, anything)
        events = [happened(1), Detailed(aggregate_id=uuid4()), BaseEvent("noted", uuid4())]
        for published in events:
            await bus.publish(anything, published)
        await bus.drain()
        assert received == events


@ways_to_publish
async def test_event_that_cannot_be_encoded(publish: Publish) -> None:
    """Where events are serialized, one that cannot be encoded is refused while it is published."""
    async with running_bus(memory={"serialize": True}, buffer_size=1) as bus:
        received = listen(bus, ANYTHING)
        for _ in range(3):
            with pytest.raises(SerializationError):
                await publish(bus, ANYTHING, BaseEvent("noted", uuid4(), data={"what": 10**2000}))
        assert bus.state().unsettled == bus.state().published == 0
        await publish(bus, ANYTHING, BaseEvent("noted", uuid4(), data={"what": 5}))
        await bus.drain()
        assert [event.data["what"] for event in received] == [5]


@ways_to_publish
async def test_publish_from_another_loop(publish: Publish) -> None:
    """The bus belongs to one event loop; calls from a loop in another thread are refused."""
    async with running_bus() as bus:
        received = listen(bus)
        await publish(bus, HAPPENED, happened())
        await bus.drain()
        with pytest.raises(WrongEventLoop, match=re.escape("share a bus of open_sync_bus()")):
            await asyncio.to_thread(lambda: asyncio.run(publish(bus, HAPPENED, happened())))  # type: ignore[arg-type]
        await bus.drain()
        assert len(received) == 1


@ways_to_publish
async def test_publish_from_another_loop_while_the_bus_is_awake(publish: Publish) -> None:
    """It is refused while workers are running as well, when nobody has to be woken for an event."""
    gate = asyncio.Event()

    async def hold(event: Happened) -> None:
        await gate.wait()

    async with running_bus(worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, hold, name="hold")
        await publish(bus, HAPPENED, happened())  # the route is known from now on
        await until(lambda: bus.state().running_handlers, "a worker is awake")
        bus._engine.buffer.stay_awake()
        with pytest.raises(WrongEventLoop):
            await asyncio.to_thread(lambda: asyncio.run(publish(bus, HAPPENED, happened())))  # type: ignore[arg-type]
        with pytest.raises(WrongEventLoop):
            await asyncio.to_thread(bus.publish_nowait, HAPPENED, happened())
        gate.set()
        await bus.drain()
        assert (state_of(bus).handled, bus.state().published) == (1, 1)


async def test_counters_are_read_on_the_own_thread_only() -> None:
    """Counters can be read in another thread only once the bus is closed, and nobody changes them."""
    async with running_bus() as bus:
        subscription = bus.subscribe(HAPPENED, Collecting().collect)
        await bus.publish(HAPPENED, happened())
        for read in (bus.state, bus.published, lambda: subscription.state):
            with pytest.raises(WrongEventLoop, match="open_sync_bus"):
                await asyncio.to_thread(read)
        await bus.drain()
    assert (await asyncio.to_thread(bus.state)).published == 1
    assert (await asyncio.to_thread(lambda: subscription.state)).handled == 1


# --- many, and without waiting ----------------------------------------------------------------------------


async def test_publish_many() -> None:
    """Several events are published in order, on one topic or several."""
    async with running_bus() as bus:
        received = listen(bus, "test.#")
        await bus.publish_many([(HAPPENED, happened(1)), (OTHER, happened(2)), (HAPPENED, happened(3))])
        await bus.publish_many([])
        await bus.drain()
    assert [event.number for event in received] == [1, 2, 3]


async def test_publish_many_takes_an_iterator() -> None:
    """The items may come from a generator, and from one that publishes through a small buffer."""
    async with running_bus(buffer_size=2) as bus:
        received = listen(bus)
        await bus.publish_many((HAPPENED, happened(number)) for number in range(100))
        await bus.drain()
    assert [event.number for event in received] == list(range(100))


async def test_publish_many_with_failures() -> None:
    """Every event is tried, and the error holds the result of each, in order."""

    def refuse_number_two(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            if getattr(envelope.event, "number", 0) == 2:
                raise ConnectionError("no route")
            await call_next(envelope)

        return handle

    async with running_bus(
        plugins=[middleware_plugin(refuse=refuse_number_two)], middleware={"publish": ["refuse"]}
    ) as bus:
        received = listen(bus)
        items: list[Any] = [
            (HAPPENED, happened(0)),
            (HAPPENED, Unrelated(aggregate_id=uuid4())),
            (HAPPENED, happened(2)),
            ("unknown.topic", happened(3)),
            (HAPPENED, happened(4)),
        ]
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_many(items)
        await bus.drain()
    assert [type(result) for result in caught.value.results] == [
        type(None),
        EventTypeMismatch,
        ConnectionError,
        UnknownTopic,
        type(None),
    ]
    assert str(caught.value).startswith("3 of 5 events not accepted; the first is item 1: EventTypeMismatch:")
    assert [event.number for event in received] == [0, 4]


async def test_publish_nowait() -> None:
    """Without waiting, an event is accepted while there is room, and refused with BufferFull after that."""
    async with running_bus(buffer_size=2) as bus:
        received = listen(bus)
        bus.publish_nowait(HAPPENED, happened(1))
        bus.publish_nowait(HAPPENED, happened(2), headers={"trace": "1"})
        with pytest.raises(BufferFull, match=re.escape("the buffer is full (2 unsettled events)")):
            bus.publish_nowait(HAPPENED, happened(3))
        await bus.drain()
        bus.publish_nowait(HAPPENED, happened(4))
        await bus.drain()
    assert [event.number for event in received] == [1, 2, 4]
    assert bus.state().published == 3


async def test_publish_nowait_in_a_handler() -> None:
    """Inside of a handler it goes over the bound like publish does."""
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        received = listen(bus, OTHER)

        async def forward(event: Happened) -> None:
            bus.publish_nowait(OTHER, happened(event.number + 1))

        bus.subscribe(HAPPENED, forward)
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert [event.number for event in received] == [2]
        assert bus.state().overflowed == 1


async def test_publish_nowait_through_middleware() -> None:
    """Publish middleware is passed without waiting, too."""
    notes: list[str] = []
    async with running_bus(
        plugins=[middleware_plugin(note=noting("note", notes))],
        middleware={"publish": ["note"]},
        buffer_size=1,
    ) as bus:
        received = listen(bus)
        bus.publish_nowait(HAPPENED, happened(1))
        with pytest.raises(BufferFull):
            bus.publish_nowait(HAPPENED, happened(2))
        await bus.drain()
    assert [event.number for event in received] == [1]
    assert notes == ["note in", "note out", "note in"]


async def test_publish_nowait_through_middleware_that_waits() -> None:
    """Where a middleware waits before it passes the event on, the event is refused and not published."""

    def wait(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            await asyncio.sleep(0)
            await call_next(envelope)

        return handle

    async with running_bus(plugins=[middleware_plugin(wait=wait)], middleware={"publish": ["wait"]}) as bus:
        received = listen(bus)
        with pytest.raises(
            PublishFailed, match=r"a publish middleware waited on topic 'test\.thing\.happened'"
        ):
            bus.publish_nowait(HAPPENED, happened(1))
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert [event.number for event in received] == [2]


async def test_publish_nowait_through_middleware_that_waits_too_late() -> None:
    """Where a middleware waits after the event was accepted, the error says that it may be published."""

    def wait(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            await call_next(envelope)
            await asyncio.sleep(0)

        return handle

    async with running_bus(plugins=[middleware_plugin(wait=wait)], middleware={"publish": ["wait"]}) as bus:
        received = listen(bus)
        with pytest.raises(PublishUncertain, match="after the event was accepted"):
            bus.publish_nowait(HAPPENED, happened(1))
        await bus.drain()
    assert [event.number for event in received] == [1]


async def test_publish_nowait_elsewhere_than_in_process() -> None:
    """An adapter that is not in this process cannot accept an event without waiting."""
    remote = MemoryWith("remote", Features(groups=True))
    async with running_bus(plugins=[adapter_plugin(remote)], adapter="remote") as bus:
        with pytest.raises(UnsupportedFeature, match=re.escape("await publish()")):
            bus.publish_nowait(HAPPENED, happened())


# --- headers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialize", [False, True])
async def test_headers(serialize: bool) -> None:
    """Headers reach the handler in its delivery, unchanged and read-only, and belong to one event."""
    deliveries: list[Delivery] = []

    async def note(_event: Happened, delivery: Delivery) -> None:
        deliveries.append(delivery)

    async with running_bus(memory={"serialize": serialize}) as bus:
        bus.subscribe(HAPPENED, note, name="note")
        headers = {"trace": "1"}
        await bus.publish(HAPPENED, happened(1), headers=headers)
        headers["trace"] = "changed"
        await bus.publish(HAPPENED, happened(2))
        await bus.publish(HAPPENED, happened(3), headers={})
        await bus.drain()
    assert [dict(delivery.headers) for delivery in deliveries] == [{"trace": "1"}, {}, {}]
    with pytest.raises(TypeError):
        deliveries[0].headers["trace"] = "2"  # type: ignore[index]


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}, ["a"], "a"])
async def test_bad_headers(headers: Any) -> None:
    """Headers that do not map str to str are refused."""
    async with running_bus() as bus:
        with pytest.raises(TypeError, match="headers map str to str"):
            await bus.publish(HAPPENED, happened(), headers=headers)
        assert bus.state().published == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"trace": "x" * 65_536},
        {"é" * 20_000: "", "a": "é" * 20_000},
        {f"{number:05}": "" for number in range(14_000)},
    ],
    ids=["value", "bytes-not-characters", "many"],
)
async def test_headers_that_are_too_large(headers: dict[str, str]) -> None:
    """Headers that are too large are refused in process as well."""
    async with running_bus() as bus:
        with pytest.raises(SerializationError, match="the headers have more than 65,536 bytes"):
            await bus.publish(HAPPENED, happened(), headers=headers)
        assert bus.state().published == 0


@pytest.mark.parametrize("headers", [{"a": "\ud800"}, {"\udfff": "a"}])
async def test_headers_that_are_no_text(headers: Any) -> None:
    """Headers with halves of characters are refused here, where the name can be told, on every adapter."""
    async with running_bus() as bus:
        with pytest.raises(SerializationError, match=r"the header '.*' cannot be encoded: it holds a lone"):
            await bus.publish(HAPPENED, happened(), headers=headers)
        assert bus.state().published == 0


async def test_a_key_is_asked_for_though_nobody_orders() -> None:
    """An event without a key is refused where the adapter would not need one, too; others go on."""
    topic = Topic("tests.keyed.happened", Happened, key=lambda event: str(1 // event.number))
    async with running_bus() as bus:
        for _ in range(2):
            await bus.publish(topic, happened(1))
            with pytest.raises(SerializationError, match=r"the key function of topic .* raised ZeroDiv"):
                await bus.publish(topic, happened(0))
        assert bus.state().published == 2


@pytest.mark.parametrize("serialize", [False, True])
async def test_a_delivery_has_the_body_that_arrived(serialize: bool) -> None:
    """A tool can read more of an encoded event than its class has; an event that is an object has no body."""
    bodies: list[bytes | None] = []

    async def note(_event: Event, delivery: Delivery) -> None:
        bodies.append(delivery.body)
        assert "body" not in repr(delivery)

    async with running_bus(memory={"serialize": serialize}) as bus:
        bus.subscribe(HAPPENED, note, name="audit")
        published = happened()
        await bus.publish(HAPPENED, published)
        await bus.drain()
    (body,) = bodies
    if serialize:
        assert body is not None
        assert json.loads(body)["id"] == str(published.event_id)
    else:
        assert body is None


async def test_delivery_tells() -> None:
    """A handler that asks for the delivery learns topic, subscription, id, attempt and time."""
    deliveries: list[Delivery] = []

    async def note(_event: Event, delivery: Delivery) -> None:
        deliveries.append(delivery)

    async with running_bus() as bus:
        bus.subscribe("test.#", note, name="audit")
        published = happened()
        await bus.publish(HAPPENED, published)
        await bus.drain()
    (delivery,) = deliveries
    assert delivery.topic == "test.thing.happened"
    assert delivery.subscription == "audit"
    assert delivery.message_id == str(published.event_id)
    assert (delivery.attempt, delivery.redelivered) == (1, False)
    assert delivery.published_at >= published.occurred_at


# --- topics -----------------------------------------------------------------------------------------------


async def test_topic_object_is_its_own_declaration() -> None:
    """A Topic object needs no catalogue; once it was used, its name is known as well."""
    async with running_bus() as bus:
        with pytest.raises(UnknownTopic):
            await bus.publish(HAPPENED.name, happened())
        await bus.publish(HAPPENED, happened(1))
        received = listen(bus, HAPPENED.name)
        await bus.publish(HAPPENED.name, happened(2))
        await bus.publish(Topic(HAPPENED.name, Happened), happened(3))
        await bus.drain()
        assert [event.number for event in received] == [2, 3]
        assert bus.topics[HAPPENED.name] is HAPPENED


@pytest.mark.parametrize("call", ["publish", "subscribe"])
async def test_topic_conflict(call: str) -> None:
    """Two topics of one name with different classes are an error that names both."""
    twin = Topic(HAPPENED.name, Unrelated)

    async def listening() -> None:
        listen(bus, twin)

    async with running_bus(plugins=[Catalogues()]) as bus:
        await bus.publish(HAPPENED, happened())
        with pytest.raises(TopicConflict) as caught:
            await (bus.publish(twin, Unrelated(aggregate_id=uuid4())) if call == "publish" else listening())
    text = str(caught.value)
    assert "support.buses.Happened" in text
    assert "Unrelated" in text
    assert "'test.thing.happened'" in text


async def test_topics_that_differ_in_their_key() -> None:
    """Two topics of one name whose ordering keys differ are an error: one of the keys would be ignored."""
    async with running_bus() as bus:
        await bus.publish(HAPPENED, happened())
        with pytest.raises(TopicConflict, match="key"):
            await bus.publish(Topic(HAPPENED.name, Happened, key=lambda _event: "one"), happened())


async def test_any_topic_where_topics_are_not_strict() -> None:
    """With ``strict_topics: false`` any name carries any event, and nothing is remembered of it."""
    async with running_bus(strict_topics=False) as bus:
        received = listen(bus, "script.step.done")
        for number in range(3):
            await bus.publish("script.step.done", BaseEvent("done", uuid4(), data={"number": number}))
        await bus.publish("script.nobody.listens", BaseEvent("done", uuid4()))
        typed = happened()
        await bus.publish("script.step.done", typed)
        await bus.drain()
        assert [event.data["number"] for event in received[:3]] == [0, 1, 2]
        assert received[3:] == [typed]
        assert (bus.state().published, bus.state().unrouted) == (5, 1)
        assert bus.published()["script.step.done"] == 4
        assert "script.step.done" not in bus.topics


async def test_names_without_number_cost_no_memory() -> None:
    """Counters of undeclared topics are kept for a bounded number of them; the totals stay right."""
    async with running_bus(strict_topics=False) as bus:
        for number in range(3000):
            await bus.publish(f"script.step{number}.done", BaseEvent("done", uuid4()))
        assert bus.state().published == bus.state().unrouted == 3000
        assert len(bus.published()) <= 1000


async def test_topic_declared_after_it_was_used_freely() -> None:
    """A free topic takes the class of a Topic object that declares it later."""
    async with running_bus(strict_topics=False) as bus:
        received = listen(bus, HAPPENED.name)
        await bus.publish(HAPPENED.name, BaseEvent("happened", uuid4()))
        await bus.publish(HAPPENED, happened(1))
        with pytest.raises(EventTypeMismatch):
            await bus.publish(HAPPENED.name, BaseEvent("happened", uuid4()))
        await bus.drain()
        assert [type(event) for event in received] == [BaseEvent, Happened]
        assert bus.state().published == 2


async def test_unknown_class_on_a_pattern() -> None:
    """Events of a topic whose class a bus does not know arrive as BaseEvent where they travel as bytes."""
    from promenade_bus_memory import MemoryHub

    hub = MemoryHub()
    shared = {"hub": hub, "serialize": True}
    async with running_bus(memory=shared) as knowing, running_bus(memory=shared) as ignorant:
        received = listen(ignorant, "test.#")
        published = happened(5)
        await knowing.publish(HAPPENED, published)
        await ignorant.drain()
    (arrived,) = received
    assert type(arrived) is BaseEvent
    assert arrived.type == "happened"
    assert arrived.data == {"number": 5}
    assert (arrived.event_id, arrived.aggregate_id) == (published.event_id, published.aggregate_id)


async def test_counts_per_topic() -> None:
    """The bus counts what it accepted on each topic."""
    async with running_bus() as bus:
        listen(bus)
        for _ in range(3):
            await bus.publish(HAPPENED, happened())
        await bus.publish(OTHER, happened())
        await until(lambda: bus.state().unsettled == 0)
        assert bus.published() == {"test.other.happened": 1, "test.thing.happened": 3}

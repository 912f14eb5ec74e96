from __future__ import annotations

import asyncio
import io
import logging
from uuid import UUID, uuid4

import attrs
import pytest

import promenade_bus_middleware
from bus_core import BaseEvent, Bus, Delivery, Envelope, RetryLater
from promenade_bus_middleware import CorrelationFilter, causation_id, correlated, correlation_id
from promenade_bus_testing import VirtualClock, isolated_bus
from support.middleware import EVENT_ID, build, delivered, failing, faults_of, published, succeed

BOTH = {"consume": ["correlation"], "publish": ["correlation"]}


def some_event(name: str = "order.placed") -> BaseEvent:
    return BaseEvent(name, uuid4())


async def follow(bus: Bus, first: BaseEvent, **headers: str) -> list[Delivery]:
    """Publish an event that causes a second, which causes a third; the deliveries of all."""
    seen: list[Delivery] = []

    def chained(topic: str, following: str | None) -> None:
        async def handle(event: BaseEvent, delivery: Delivery) -> None:
            seen.append(delivery)
            if following is not None:
                await bus.publish(following, some_event())

        bus.subscribe(topic, handle, name=topic)

    chained("a.order.placed", "b.order.paid")
    chained("b.order.paid", "c.order.sent")
    chained("c.order.sent", None)
    await bus.publish("a.order.placed", first, headers=headers)
    await bus.drain()
    return seen


async def test_ids_follow_events_through_handlers() -> None:
    """All events that follow from one share its correlation id, and each names the one that caused it."""
    async with isolated_bus(plugins=[promenade_bus_middleware], strict_topics=False, middleware=BOTH) as bus:
        first = some_event()
        one, two, three = await follow(bus, first)
    assert [each.headers["correlationid"] for each in (one, two, three)] == [str(first.event_id)] * 3
    assert "causationid" not in one.headers
    assert two.headers["causationid"] == one.message_id
    assert three.headers["causationid"] == two.message_id


async def test_an_id_of_the_publisher_is_kept() -> None:
    """A correlation id that the publisher gives as a header is that of all events that follow."""
    async with isolated_bus(plugins=[promenade_bus_middleware], strict_topics=False, middleware=BOTH) as bus:
        seen = await follow(bus, some_event(), correlationid="request-7", causationid="click-1")
    assert {each.headers["correlationid"] for each in seen} == {"request-7"}
    assert seen[0].headers["causationid"] == "click-1"


async def test_events_that_are_handled_at_the_same_time() -> None:
    """Handlers that wait in between see their own ids only, and nothing is left outside of them."""
    seen: dict[UUID, tuple[str | None, str | None]] = {}
    all_wait = asyncio.Event()

    async with isolated_bus(plugins=[promenade_bus_middleware], strict_topics=False, middleware=BOTH) as bus:

        @bus.subscribe("sales.#", name="slow")
        async def slow(event: BaseEvent) -> None:
            waiting.append(event)
            if len(waiting) == 5:
                all_wait.set()
            await all_wait.wait()
            seen[event.event_id] = correlation_id(), causation_id()

        waiting: list[BaseEvent] = []
        for _ in range(5):
            await bus.publish("sales.order.placed", some_event())
        await bus.drain()
        assert correlation_id() is None
    assert seen == {each: (str(each), str(each)) for each in seen}
    assert len(seen) == 5


async def test_a_handler_in_a_thread() -> None:
    """Events that a synchronous handler publishes from its thread have the ids as well."""
    seen: list[Delivery] = []

    async with isolated_bus(plugins=[promenade_bus_middleware], strict_topics=False, middleware=BOTH) as bus:

        @bus.subscribe("a.order.placed", name="thread")
        def in_thread(event: BaseEvent) -> None:
            bus.from_thread.publish("b.order.paid", some_event())

        @bus.subscribe("b.order.paid", name="after")
        async def after(event: BaseEvent, delivery: Delivery) -> None:
            seen.append(delivery)

        first = some_event()
        await bus.publish("a.order.placed", first)
        await bus.drain()
    (delivery,) = seen
    assert delivery.headers["correlationid"] == delivery.headers["causationid"] == str(first.event_id)


async def test_a_retry_publishes_with_the_same_ids(virtual_clock: VirtualClock) -> None:
    """An attempt that is made again has the ids of the first one."""
    middleware = build("correlation", virtual_clock)
    seen = []

    async def fails(envelope: Envelope) -> None:
        further = published()
        await middleware(succeed)(further)
        seen.append(further.headers)
        raise RetryLater(after=1)

    for attempt in (1, 2):
        with pytest.raises(RetryLater):
            await middleware(fails)(delivered(virtual_clock, attempt=attempt, correlationid="c-1"))
    assert seen == [{"correlationid": "c-1", "causationid": str(EVENT_ID)}] * 2


async def test_ids_of_a_cloud_event_of_others(virtual_clock: VirtualClock) -> None:
    """A publisher of another kind has the id as an attribute of the CloudEvent."""
    body = b'{"specversion":"1.0","correlationid":"from-elsewhere","data":{}}'
    seen = []

    async def note(envelope: Envelope) -> None:
        seen.append((correlation_id(), envelope.headers["correlationid"]))

    for given in (body, b'{"data":{"correlationid":"x"}}', b'\xff"correlationid"', b'["correlationid"]'):
        envelope = delivered(virtual_clock)
        assert envelope.delivery is not None
        envelope.delivery = attrs.evolve(envelope.delivery, body=given)
        await build("correlation", virtual_clock)(note)(envelope)
    assert seen == [("from-elsewhere",) * 2] + [(str(EVENT_ID),) * 2] * 3


@pytest.mark.parametrize("hostile", ["", "a\nb", "x" * 257])
async def test_an_id_that_is_none(virtual_clock: VirtualClock, hostile: str) -> None:
    """An id that is empty, long or unprintable does not travel on, and cannot be given in code."""
    seen = []

    async def note(envelope: Envelope) -> None:
        seen.append(correlation_id())

    await build("correlation", virtual_clock)(note)(delivered(virtual_clock, correlationid=hostile))
    assert seen == [str(EVENT_ID)]
    with pytest.raises(ValueError, match="1 to 256 printable"), correlated(hostile):
        raise AssertionError


async def test_a_block_with_an_id(virtual_clock: VirtualClock) -> None:
    """Events that are published in a block have the id of the block, and it ends with the block."""
    middleware = build("correlation", virtual_clock)
    inside, outside = published(), published()
    with correlated("request-7"):
        await middleware(succeed)(inside)
    await middleware(succeed)(outside)
    assert inside.headers == {"correlationid": "request-7"}
    assert outside.headers == {"correlationid": str(EVENT_ID)}


async def test_no_begin_and_other_names(virtual_clock: VirtualClock) -> None:
    """With begin: false only what already has an id gets one; the headers can have other names."""
    middleware = build(
        "correlation", virtual_clock, begin=False, correlation="x-request", causation="x-cause"
    )
    plain, inside = published(), published()
    await middleware(succeed)(plain)
    with correlated("request-7"):
        await middleware(succeed)(inside)
    assert plain.headers == {}
    assert inside.headers == {"x-request": "request-7"}


async def test_ids_in_logs(virtual_clock: VirtualClock) -> None:
    """The filter gives records of handlers both ids, and a dash elsewhere, also after a failure."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(logging.Formatter("%(correlation_id)s %(causation_id)s %(message)s"))
    logger = logging.getLogger("shop.correlation.test")
    logger.addHandler(handler)

    async def log(envelope: Envelope) -> None:
        logger.warning("inside")

    middleware = build("correlation", virtual_clock)
    await middleware(log)(delivered(virtual_clock, correlationid="c-1"))
    with pytest.raises(OSError, match="no"):
        await middleware(failing(OSError("no")))(delivered(virtual_clock))
    logger.warning("outside")
    logger.removeHandler(handler)
    assert stream.getvalue() == f"c-1 {EVENT_ID} inside\n- - outside\n"


def test_faulty_options() -> None:
    """The name of a header cannot be empty or hold blanks."""
    (fault,) = faults_of("correlation", correlation="x y")
    assert "correlation must be the name of a header, got 'x y' @ $.correlation" in fault

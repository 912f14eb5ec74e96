"""The recorder: finding, waiting, and its message when something is missing."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from bus_core import (
    Bus,
    BusStateError,
    Event,
    Personal,
    RetryLater,
    Topic,
    event,
    open_bus,
    open_sync_bus,
)
from promenade_bus_testing import (
    Recorder,
    UnseenFailures,
    isolated_bus,
    isolated_sync_bus,
    recording,
    sync_recording,
)


@event
class OrderPlaced(Event):
    """Somebody ordered something."""

    number: int
    note: Personal[str] = ""


@event
class OrderPaid(Event):
    """Somebody paid for it."""

    number: int


PLACED = Topic("shop.order.placed", OrderPlaced)
PAID = Topic("shop.order.paid", OrderPaid)


def placed(number: int, note: str = "") -> OrderPlaced:
    return OrderPlaced(aggregate_id=uuid4(), number=number, note=note)


@pytest.fixture
async def shop(bus: Bus, recorder: Recorder) -> Recorder:
    """A bus on which orders are paid as they are placed, and an order 13 never; with two orders."""

    @bus.subscribe(PLACED, name="till", where=lambda order: order.number != 13)
    async def till(order: OrderPlaced) -> None:
        await bus.publish(PAID, OrderPaid(aggregate_id=order.aggregate_id, number=order.number))

    @bus.subscribe("shop.#", name="audit")
    def audit(event: Event) -> None:
        pass

    await bus.start()
    await bus.publish(PLACED, placed(1))
    await bus.publish(PLACED, placed(13))
    await bus.drain()
    return recorder


async def test_what_was_published(shop: Recorder) -> None:
    """Published events are listed in order, by topic, pattern, function or field values."""
    assert [order.number for order in shop.published(PLACED)] == [1, 13]
    assert [each.type for each in shop.published("shop.*.paid")] == ["order.paid"]
    assert len(shop.published()) == 3
    assert [order.number for order in shop.published(PLACED, lambda order: order.number > 1)] == [13]
    assert [order.number for order in shop.published(PLACED, {"number": 13, "note": ""})] == [13]


async def test_what_was_handled(shop: Recorder) -> None:
    """Handled events are listed once for each handler that returned, or for one subscription."""
    assert sorted(order.number for order in shop.handled(PLACED)) == [1, 1, 13]
    assert [order.number for order in shop.handled(PLACED, by="till")] == [1]
    assert len(shop.handled(by="audit")) == 3


async def test_expect_returns_the_one(shop: Recorder) -> None:
    """``expect`` returns the one event that fits, and so does ``expect_handled``."""
    assert shop.expect(PLACED, {"number": 13}).number == 13
    assert shop.expect(PLACED, lambda order: order.number == 1).number == 1
    assert shop.expect_handled(PAID, by="audit").number == 1
    shop.expect_nothing(PLACED, {"number": 2})
    shop.expect_nothing("billing.#")


async def test_expect_says_what_comes_nearest(shop: Recorder) -> None:
    """When no event fits, the text shows the nearest, how it differs, and the others of the topic."""
    with pytest.raises(AssertionError) as caught:
        shop.expect(PLACED, {"number": 14, "note": "", "colour": "red"})
    assert str(caught.value).splitlines() == [
        "expected one event published to shop.order.placed with number=14, note='', colour='red', found none",
        "nearest: OrderPlaced(number=13, note=<personal>)",
        "  number: expected 14, is 13",
        "  colour: expected 'red', but OrderPlaced has no such field",
        "published to shop.order.placed, but not selected:",
        "  OrderPlaced(number=1, note=<personal>)",
        "  OrderPlaced(number=13, note=<personal>)",
    ]


async def test_expect_says_what_there_is_of_other_topics(shop: Recorder) -> None:
    """When nothing was published to the topic, the text lists the others, and the likely name."""
    with pytest.raises(AssertionError) as caught:
        shop.expect("shop.order.place")
    *lines, likely = str(caught.value).splitlines()
    assert lines[:5] == [
        "expected one event published to shop.order.place, found none",
        "published so far:",
        "  shop.order.placed (2)",
        "  shop.order.paid (1)",
        "handled so far:",
    ]
    assert {"  shop.order.placed by till (1)", "  shop.order.placed by audit (2)"} < set(lines[5:])
    assert likely.startswith("did you mean 'shop.order.placed' or ")


async def test_expect_takes_no_more_than_one(shop: Recorder) -> None:
    """Several events where one is expected are listed."""
    with pytest.raises(AssertionError) as caught:
        shop.expect(PLACED)
    assert str(caught.value).splitlines() == [
        "expected one event published to shop.order.placed, found 2",
        "found:",
        "  OrderPlaced(number=1, note=<personal>)",
        "  OrderPlaced(number=13, note=<personal>)",
    ]
    with pytest.raises(AssertionError, match=r"expected no event published to shop.order.paid, found 1"):
        shop.expect_nothing(PAID)
    with pytest.raises(AssertionError, match=r"expected one event handled of shop.order.placed by till with"):
        shop.expect_handled(PLACED, {"number": 13}, by="till")


async def test_expect_before_anything_happened(recorder: Recorder) -> None:
    """Where nothing has happened yet, the text says so."""
    with pytest.raises(AssertionError, match=r"found none\nnothing was published or handled so far$"):
        recorder.expect(PLACED)


async def test_expect_shows_failures(bus: Bus, recorder: Recorder) -> None:
    """When handlers failed, the text of what is missing shows their flow."""
    recorder.failures.allow()

    @bus.subscribe(PLACED, name="till")
    async def till(order: OrderPlaced) -> None:
        raise RetryLater(after=0.0)

    await bus.publish(PLACED, placed(1))
    await bus.drain()
    with pytest.raises(AssertionError) as caught:
        recorder.expect_handled(PLACED, by="till")
    text = str(caught.value)
    assert "what failed:\n  shop.order.placed " in text
    assert "till: attempt 3 failed with RetryLater" in text
    assert "dead letter: retries exhausted after 3 attempts" in text


async def test_wait_for(bus: Bus, recorder: Recorder) -> None:
    """``wait_for`` returns as soon as enough events were published, or handled, those before included."""
    gate = asyncio.Event()

    @bus.subscribe(PLACED, name="till")
    async def till(order: OrderPlaced) -> None:
        await gate.wait()

    waiting = asyncio.ensure_future(recorder.wait_for(PLACED, 2, where=lambda order: order.number < 3))
    for number in (1, 3, 2):
        await bus.publish(PLACED, placed(number))
    assert [order.number for order in await waiting] == [1, 2]
    with pytest.raises(AssertionError) as caught:
        await recorder.wait_for(PLACED, 3, timeout=0.01, by="till")
    text = str(caught.value)
    assert text.startswith("expected 3 events handled of shop.order.placed by till within 0.01 s, found none")
    assert "still running:\n  till is at attempt 1 of OrderPlaced(number=1, note=<personal>)" in text
    gate.set()
    assert len(await recorder.wait_for("shop.#", 3, handled=True)) == 3


async def test_a_bus_has_one_recorder() -> None:
    """A second block, on a bus that runs by then, has the events of the first one, too."""
    bus = open_bus({"bus": {"adapter": "memory"}})
    async with recording(bus) as first, bus:
        await bus.publish(PLACED, placed(1))
        async with recording(bus) as second:
            await bus.publish(PLACED, placed(2))
        assert second is first
        assert [order.number for order in second.published(PLACED)] == [1, 2]


async def test_an_application_is_recorded() -> None:
    """Any bus can be recorded before it is started; leaving the block complains about failures."""
    bus = open_bus({"bus": {"adapter": "memory", "retry": {"policy": "none"}}})

    @bus.subscribe(PLACED, name="till")
    async def till(order: OrderPlaced) -> None:
        raise KeyError(order.number)

    async def use_it() -> None:
        async with recording(bus) as recorder:
            async with bus:
                await bus.publish(PLACED, placed(1))
            assert recorder.expect(PLACED).number == 1

    with pytest.raises(UnseenFailures, match="an attempt failed that the test does not expect"):
        await use_it()
    late = open_bus({"bus": {"adapter": "memory"}})
    async with late:
        with pytest.raises(BusStateError, match="before the bus is started"):
            await recording(late).__aenter__()


def test_an_application_of_threads_is_recorded() -> None:
    """The same goes for a sync bus."""
    bus = open_sync_bus({"bus": {"adapter": "memory"}})
    with sync_recording(bus) as recorder, bus:
        bus.subscribe(PLACED, lambda order: None, name="till")
        bus.publish(PLACED, placed(1))
        assert recorder.wait_for(PLACED, by="till")[0].number == 1


async def test_a_block_that_raises_is_not_covered_up() -> None:
    """The error of the block comes out, not those that follow from it; nothing is waited for."""

    async def fail() -> None:
        async with isolated_bus(retry={"policy": "fixed", "delay": "1h"}) as bus:
            bus.subscribe(PLACED, lambda order: int("x"), name="till")
            await bus.publish(PLACED, placed(1))
            raise ZeroDivisionError

    def fail_in_threads() -> None:
        with isolated_sync_bus(retry={"policy": "fixed", "delay": "1h"}) as bus:
            bus.subscribe(PLACED, lambda order: int("x"), name="till")
            bus.publish(PLACED, placed(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(ZeroDivisionError):
        fail_in_threads()

"""The bus in tests: effects are seen in the transaction of the test."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.test import AsyncClient, Client, TestCase

from bus_core import BaseEvent, Delivery, Event, EventTypeMismatch
from django_support.shop.events import PLACED, RECEIPTED, Placed, Receipted
from django_support.shop.models import Order, Receipt
from promenade_bus_django import bus
from promenade_bus_django.testing import capture_events, inline_bus


def placed(number: int = 0) -> Placed:
    return Placed(aggregate_id=uuid4(), number=number)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Handlers of one test are unknown to the next."""
    before = [*bus._declared]
    yield
    bus._declared[:] = before
    assert "not open" in repr(bus), "an inline bus is not opened"


class Cases(TestCase):
    """Run by the tests below: pytest would run them with its own fixtures."""

    __test__ = False

    def a_view(self) -> None:
        with inline_bus() as events:
            assert Client().get("/place/7").status_code == 200
            assert Receipt.objects.count() == 0  # its transaction is that of the test: not committed
        assert events.expect(PLACED, number=7).number == 7
        assert events.expect(RECEIPTED).number == 7
        assert Receipt.objects.get().number == 7

    async def an_async_view(self) -> None:
        with inline_bus() as events:
            response = await AsyncClient().get("/aplace/8")
        assert response.status_code == 200
        assert [event.number for event in events.of(PLACED)] == [8]
        assert (await Receipt.objects.aget()).number == 8

    def only_captured(self) -> None:
        with capture_events() as events:
            Client().get("/place/9")
            events.expect_nothing()
        events.expect("shop.order.placed", number=9)
        events.expect_nothing(RECEIPTED)
        assert Receipt.objects.count() == 0
        assert Order.objects.count() == 1

    def a_database_error(self) -> None:
        @bus.subscribe(PLACED, name="twice")
        def twice(event: Placed) -> None:
            Receipt.objects.create(number=100)
            with transaction.atomic(savepoint=False):
                Order.objects.create(number=event.number)

        @bus.subscribe(PLACED, name="careless")
        def careless(event: Placed) -> None:
            Receipt.objects.create(number=200)
            raise LookupError("no stock")

        Order.objects.create(number=1)
        with inline_bus(raise_failures=False) as events:
            bus.publish(PLACED, placed(1))
        assert [failure.subscription for failure in events.failures] == ["twice", "careless"]
        assert isinstance(events.failures[0].error, IntegrityError)
        # As on a real bus: each statement of a handler is committed by itself, until one fails.
        assert sorted(Receipt.objects.values_list("number", flat=True)) == [1, 200]


@pytest.mark.parametrize("name", ["a_view", "an_async_view", "only_captured", "a_database_error"])
def test_effects_are_in_the_transaction_of_the_test(name: str) -> None:
    """A TestCase sees what views published and handlers did, and leaves nothing in the database."""
    result = unittest.TestResult()
    unittest.TestSuite([Cases(name)]).run(result)
    assert not result.errors + result.failures, result
    assert result.testsRun == 1
    assert Receipt.objects.count() == 0
    assert Order.objects.count() == 0


def test_handlers_get_what_a_server_would_give_them() -> None:
    """The event is encoded and decoded, ``where`` and patterns select, and the delivery is filled in."""
    got: list[tuple[Event, Delivery]] = []
    odd: list[int] = []

    @bus.subscribe("shop.#", name="all")
    async def look(event: Event, delivery: Delivery) -> None:
        got.append((event, delivery))

    @bus.subscribe(PLACED, name="odd", where=lambda event: event.number % 2 == 1)
    def only_odd(event: Placed) -> None:
        odd.append(event.number)

    first = placed(1)
    with inline_bus() as events:
        bus.publish(PLACED, first, headers={"trace": "1"})
        bus.publish_many([(PLACED, placed(2))])
    assert odd == [1]
    assert [event for event, _ in got] == [each.event for each in events.published]
    event, delivery = got[0]
    assert event == first
    assert event is not first
    assert (delivery.topic, delivery.subscription, delivery.group) == (PLACED.name, "all", "shop.all")
    assert (delivery.attempt, delivery.message_id, delivery.headers) == (
        1,
        str(first.event_id),
        {"trace": "1"},
    )
    assert [each.topic for each in events.published] == [PLACED.name, RECEIPTED.name] * 2


def test_what_a_handler_publishes_is_handled_after_it() -> None:
    """Not within the call, so that a chain of events needs no deep stack."""
    order: list[str] = []

    @bus.subscribe(RECEIPTED, name="chain")
    def chain(event: Receipted) -> None:
        order.append(f"begin {event.number}")
        if event.number < 2:
            bus.publish(RECEIPTED, Receipted(aggregate_id=event.aggregate_id, number=event.number + 1))
        order.append(f"end {event.number}")

    with inline_bus():
        bus.publish(RECEIPTED, Receipted(aggregate_id=uuid4(), number=1))
    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


def test_what_a_handler_publishes_does_not_wait_for_a_block_that_has_ended() -> None:
    """The callback of the commit runs after the block, and so does the handler."""
    numbers: list[int] = []

    @bus.subscribe(PLACED, name="hand-on")
    def hand_on(event: Placed) -> None:
        bus.publish(RECEIPTED, Receipted(aggregate_id=event.aggregate_id, number=event.number))

    @bus.subscribe(RECEIPTED, name="counting")
    def count(event: Receipted) -> None:
        numbers.append(event.number)

    with inline_bus() as events:
        with transaction.atomic(), bus.after_commit():
            bus.publish(PLACED, placed(5))
        assert events.of(PLACED)
    assert 5 in numbers
    assert [event.number for event in events.of(RECEIPTED)] == [5, 5]  # the other one is of 'receipts'


def test_errors_of_handlers_are_raised_at_the_end() -> None:
    """The publisher goes on, as with a real bus; the error tells handler and topic."""

    @bus.subscribe(RECEIPTED, name="failing")
    def fail(event: Receipted) -> None:
        raise LookupError(f"no stock for {event.number}")

    after: list[str] = []

    def publish(*events: Receipted) -> None:
        with inline_bus():
            bus.publish_many([(RECEIPTED, event) for event in events])
            after.append("published")

    with pytest.raises(LookupError, match="no stock for 0") as raised:
        publish(Receipted(aggregate_id=uuid4()))
    assert after == ["published"]
    assert raised.value.__notes__ == [
        "raised by the handler of 'failing' for an event of 'shop.receipt.written'"
    ]
    with pytest.raises(ExceptionGroup, match="handlers failed"):
        publish(Receipted(aggregate_id=uuid4()), Receipted(aggregate_id=uuid4()))
    with pytest.raises(EventTypeMismatch), inline_bus():
        bus.publish(PLACED, Receipted(aggregate_id=uuid4()))  # type: ignore[misc]


def test_assertions_list_what_was_published() -> None:
    """A test that fails shows the events that there were."""
    with capture_events() as events:
        with pytest.raises(AssertionError, match=r"1 event of 'shop\.order\.placed', got 0; publ.*nothing"):
            events.expect(PLACED)
        bus.publish(PLACED, placed(3))
        bus.publish("shop.order.placed", placed(4))
    with pytest.raises(AssertionError, match=r"(?s)with number=5, got 0; published: .*number=3.*number=4"):
        events.expect(PLACED, number=5)
    with pytest.raises(AssertionError, match="got 2"):
        events.expect(PLACED)
    with pytest.raises(AssertionError, match=r"expected no event of 'shop\.order\.placed'"):
        events.expect_nothing(PLACED)
    with pytest.raises(AssertionError, match="expected no event;"):
        events.expect_nothing()
    events.expect_nothing("shop.receipt.written")


def test_fields_of_untyped_events_can_be_expected() -> None:
    """They are in ``data``."""
    from bus_core import Topic

    topic = Topic("shop.stock.counted", BaseEvent)
    with capture_events() as events:
        bus.publish(topic, BaseEvent("stock.counted", uuid4(), data={"chairs": 3}))
    assert events.expect(topic, chairs=3).data == {"chairs": 3}

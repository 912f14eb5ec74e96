"""Events and transactions: an event leaves after the commit, with its savepoint, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings

from bus_core import (
    Delivery,
    Envelope,
    EventTypeMismatch,
    Handler,
    HealthStatus,
    PublishFailed,
    PublishManyError,
    UnknownTopic,
)
from django_support import MEMORY
from django_support.shop.events import PLACED, RECEIPTED, Placed, Receipted
from promenade_bus_django import DjangoBus


def placed(number: int = 0) -> Placed:
    return Placed(aggregate_id=uuid4(), number=number)


class Stop(Exception):
    pass


@pytest.fixture
def got(shop: DjangoBus) -> list[int]:
    """The numbers that a handler has received."""
    numbers: list[int] = []

    @shop.subscribe(PLACED, name="looking", concurrency=1)
    def look(event: Placed) -> None:
        numbers.append(event.number)

    return numbers


def test_an_event_leaves_after_the_commit(shop: DjangoBus, got: list[int]) -> None:
    """Not before, and in the order of the calls; a plain publish leaves at once."""
    with transaction.atomic():
        shop.publish_on_commit(PLACED, placed(1))
        with transaction.atomic():
            shop.publish_on_commit(PLACED, placed(2))
        shop.publish(PLACED, placed(0))
        shop.drain(5)
        assert got == [0]
    shop.drain(5)
    assert got == [0, 1, 2]


def test_an_event_goes_with_its_transaction(shop: DjangoBus, got: list[int]) -> None:
    """A transaction, or a savepoint, that is rolled back takes its events along, and no others."""
    with suppress(Stop), transaction.atomic():
        shop.publish_on_commit(PLACED, placed(1))
        raise Stop
    with transaction.atomic():
        shop.publish_on_commit(PLACED, placed(2))
        with suppress(Stop), transaction.atomic():
            shop.publish_on_commit(PLACED, placed(3))
            raise Stop
        with transaction.atomic():
            shop.publish_on_commit(PLACED, placed(4))
    shop.drain(5)
    assert got == [2, 4]


def test_each_database_has_transactions_of_its_own(shop: DjangoBus, got: list[int]) -> None:
    """``using`` names the one whose commit counts."""
    with transaction.atomic():
        with transaction.atomic(using="other"):
            shop.publish_on_commit(PLACED, placed(1), using="other")
            shop.publish_on_commit(PLACED, placed(2))
            with shop.after_commit(using="other"):
                shop.publish(PLACED, placed(3))
        shop.drain(5)
        assert got == [1, 3]
    shop.drain(5)
    assert got == [1, 3, 2]


def test_without_a_transaction_an_event_leaves_at_once(shop: DjangoBus, got: list[int]) -> None:
    """No connection is made for that; with autocommit switched off, Django's own error is raised."""
    connections.close_all()
    shop.publish_on_commit(PLACED, placed(1))
    shop.drain(5)
    assert got == [1]
    assert connections["default"].connection is None
    transaction.set_autocommit(False)
    try:
        with pytest.raises(TransactionManagementError, match="manual transaction management"):
            shop.publish_on_commit(PLACED, placed(2))
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_mistakes_are_raised_while_the_transaction_can_be_undone(shop: DjangoBus) -> None:
    """Unknown topics, wrong classes and bad headers raise where they are published, not after the commit."""
    wrong: Any = Receipted(aggregate_id=uuid4())
    with transaction.atomic():
        with pytest.raises(EventTypeMismatch):
            shop.publish_on_commit(PLACED, wrong)
        with pytest.raises(UnknownTopic, match=r"shop\.order\.placed"):
            shop.publish_on_commit("shop.order.plced", placed())
        with pytest.raises(TypeError):
            shop.publish_on_commit(PLACED, placed(), headers={"a": 1})  # type: ignore[dict-item]
        with pytest.raises(EventTypeMismatch), shop.after_commit():
            shop.publish_many([(PLACED, wrong)])


# --- blocks -----------------------------------------------------------------------------------------------


def test_a_block_makes_each_publish_wait_for_the_commit(shop: DjangoBus, got: list[int]) -> None:
    """Inside of a transaction, around one, and around none; headers travel."""
    seen: list[tuple[int, str]] = []

    @shop.subscribe(PLACED, name="headers")
    def look(event: Placed, delivery: Delivery) -> None:
        seen.append((event.number, delivery.headers.get("n", "")))

    with transaction.atomic(), shop.after_commit():
        shop.publish(PLACED, placed(1), headers={"n": "1"})
        shop.publish_many([(PLACED, placed(2)), (PLACED, placed(3))])
        shop.publish_many([])
        shop.drain(5)
        assert got == []
    with shop.after_commit():
        with transaction.atomic():
            shop.publish(PLACED, placed(4))
        shop.drain(5)
        assert got == [1, 2, 3, 4]
        shop.publish(PLACED, placed(5), headers={"n": "5"})
        with shop.after_commit():
            shop.publish(PLACED, placed(6))
        shop.drain(5)
        assert got == [1, 2, 3, 4]
    shop.drain(5)
    assert got == [1, 2, 3, 4, 5, 6]
    assert sorted(seen) == [(1, "1"), (2, ""), (3, ""), (4, ""), (5, "5"), (6, "")]


def test_a_block_that_raises_drops_its_events(shop: DjangoBus, got: list[int]) -> None:
    """Also when the transaction around it is committed after all, and when an outer block raises."""
    with transaction.atomic():
        with suppress(Stop), shop.after_commit():
            shop.publish(PLACED, placed(1))
            raise Stop
        with suppress(Stop), shop.after_commit():
            with shop.after_commit():
                shop.publish(PLACED, placed(2))
            raise Stop
        shop.publish_on_commit(PLACED, placed(3))
    with suppress(Stop), shop.after_commit():
        shop.publish(PLACED, placed(4))
        raise Stop
    shop.drain(5)
    assert got == [3]


# --- failures ---------------------------------------------------------------------------------------------


class _Refusing:
    """Refuses events with a number of 13; at the end of the publish middleware."""

    def __call__(self, inner: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            if getattr(envelope.event, "number", None) == 13:
                raise PublishFailed("the server is full")
            await inner(envelope)

        return handle


@pytest.fixture
def refusing(shop: DjangoBus) -> Iterator[DjangoBus]:
    config = {**MEMORY, "bus": {**MEMORY["bus"], "health": {"probes": ["django"]}}}
    with override_settings(PROMENADE_BUS=config):
        shop.made().bus.instrument(publish=_Refusing())
        yield shop


def test_a_failure_after_the_commit_is_counted_and_not_raised(
    refusing: DjangoBus, caplog: pytest.LogCaptureFixture
) -> None:
    """The transaction is committed: the log names each lost event, and health counts them."""
    got: list[int] = []
    refusing.subscribe(PLACED, lambda event: got.append(event.number), name="looking", concurrency=1)
    later: list[str] = []
    lost = placed(13)
    assert refusing.health().status is HealthStatus.HEALTHY
    with transaction.atomic():
        refusing.publish_on_commit(PLACED, lost)
        transaction.on_commit(lambda: later.append("called"))
        with refusing.after_commit():
            refusing.publish_many([(PLACED, placed(1)), (PLACED, placed(13)), (PLACED, placed(2))])
    refusing.drain(5)
    assert (got, later) == ([1, 2], ["called"])
    report = refusing.health()
    assert report.status is HealthStatus.DEGRADED
    check = report.checks["django"]
    assert check.figures == {"lost_after_commit": 2}
    assert "2 events of committed transactions could not be published" in check.summary
    assert "the server is full" in check.summary
    [first, _] = [record.getMessage() for record in caplog.records if record.name == "promenade.django"]
    assert f"its event {lost.event_id} of shop.order.placed was not published: PublishFailed" in first


def test_a_failure_without_a_transaction_is_raised(refusing: DjangoBus) -> None:
    """There is a caller who can act: nothing is counted."""
    with pytest.raises(PublishFailed, match="the server is full"):
        refusing.publish_on_commit(PLACED, placed(13))
    with pytest.raises(PublishManyError), refusing.after_commit():
        refusing.publish(PLACED, placed(13))
    assert refusing.losses.count == 0


def test_the_context_is_that_of_the_call(shop: DjangoBus, got: list[int]) -> None:
    """Publish middleware sees the context variables of the publish, not those of the commit."""
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    seen: list[str] = []

    def middleware(inner: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            seen.append(tenant.get())
            await inner(envelope)

        return handle

    shop.made().bus.instrument(publish=middleware)
    with transaction.atomic():
        token = tenant.set("acme")
        shop.publish_on_commit(PLACED, placed(1))
        tenant.reset(token)
    assert seen == ["acme"]


# --- async code -------------------------------------------------------------------------------------------


async def test_async_code_awaits_the_calls_with_an_a(shop: DjangoBus, got: list[int]) -> None:
    """The plain ones raise Django's error, which names them; handlers on the bus's own loop may publish."""
    for call in (shop.publish, shop.publish_on_commit):
        with pytest.raises(SynchronousOnlyOperation, match=r"await bus\.apublish"):
            call(PLACED, placed())
    with pytest.raises(SynchronousOnlyOperation, match=r"await bus\.apublish"):
        shop.after_commit()
    again: list[int] = []

    @shop.subscribe(PLACED, name="hand-on")
    async def hand_on(event: Placed) -> None:
        receipt = Receipted(aggregate_id=event.aggregate_id, number=event.number)
        await shop.apublish(RECEIPTED, receipt)
        await shop.apublish_many([(RECEIPTED, receipt)])
        with pytest.raises(SynchronousOnlyOperation):
            shop.publish(RECEIPTED, receipt)

    @shop.subscribe(RECEIPTED, name="counting")
    async def count(event: Receipted) -> None:
        again.append(event.number)

    await shop.apublish(PLACED, placed(1))
    await shop.apublish_many([(PLACED, placed(2))])
    await asyncio.to_thread(shop.drain, 5)
    assert got == [1, 2]
    assert sorted(again) == [1, 1, 2, 2]
    assert shop.health().checks["bus"].figures["lost"] == 0


async def test_async_code_inside_of_a_block_waits_for_the_commit(shop: DjangoBus, got: list[int]) -> None:
    """A block of the synchronous code that called it holds the event."""
    from asgiref.sync import async_to_sync

    def call() -> None:
        with transaction.atomic(), shop.after_commit():
            async_to_sync(shop.apublish)(PLACED, placed(1))
            shop.drain(5)
            assert got == []

    try:
        await sync_to_async(call)()
    finally:
        await sync_to_async(connections.close_all)()
    await asyncio.to_thread(shop.drain, 5)
    assert got == [1]


async def test_a_block_of_an_async_handler_waits_for_its_end(shop: DjangoBus) -> None:
    """The bus's own loop publishes at once, but for a block that its handler is in."""
    from asgiref.sync import async_to_sync

    receipts: list[int] = []
    raised: list[Exception] = []

    @shop.subscribe(RECEIPTED, name="counting")
    async def count(event: Receipted) -> None:
        receipts.append(event.number)

    @shop.subscribe(PLACED, name="dropping")
    async def drop(event: Placed) -> None:
        async def publish() -> None:
            receipt = Receipted(aggregate_id=event.aggregate_id, number=event.number)
            await shop.apublish(RECEIPTED, receipt)
            await shop.apublish_many([(RECEIPTED, receipt)])

        def block() -> None:
            with shop.after_commit():
                async_to_sync(publish)()
                if event.number == 1:
                    raise Stop

        try:
            await sync_to_async(block)()
        except Stop as error:
            raised.append(error)

    await shop.apublish(PLACED, placed(1))
    await shop.apublish(PLACED, placed(2))
    await asyncio.to_thread(shop.drain, 5)
    assert len(raised) == 1
    assert receipts == [2, 2]

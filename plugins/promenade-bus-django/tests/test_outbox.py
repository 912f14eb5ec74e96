"""The outbox and the inbox on Django's ORM, with the relay of promenade-bus-outbox, on both databases."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.core import checks
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings
from sqlalchemy import MetaData

from bus_core import Delivery, EventTypeMismatch, HealthStatus, open_bus
from django_support import MEMORY
from django_support.shop.events import PLACED, Placed, Receipted
from django_support.shop.models import Order, Receipt
from postgres_support.servers import HOST, PostgresServer
from promenade_bus_django import DjangoBus, bus
from promenade_bus_django.connections import KeptConnections, with_connections
from promenade_bus_django.outbox import Inbox, outbox, relay
from promenade_bus_django.outbox.models import InboxMark, OutboxEvent
from promenade_bus_django.outbox.relay import database_of, outbox_of
from promenade_bus_django.outbox.sql import partition_of
from promenade_bus_django.outbox.wakers import RELAYS
from promenade_bus_django.processes import Role
from promenade_bus_django.testing import inline_bus
from promenade_bus_outbox import OutboxStatus, outbox_tables
from promenade_bus_outbox.connection import check
from promenade_bus_outbox.names import PARTITIONS
from promenade_bus_outbox.names import partition_of as partition_of_relay
from redis_support.child_processes import wait_until

QUICK = {"relay": True, "poll": 0.02, "lease": 1.0}


def placed(number: int = 0, aggregate: UUID | None = None) -> Placed:
    return Placed(aggregate_id=aggregate or uuid4(), number=number)


class Stop(Exception):
    pass


def rows(using: str) -> list[OutboxEvent]:
    return [*OutboxEvent.objects.using(using).order_by("position")]


@pytest.fixture(scope="module")
def postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The alias of a database on PostgreSQL with all tables."""
    alias = "outbox"
    name = postgres_server.create_database(f"outbox_{os.getpid()}")
    own = {"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": "promenade", "HOST": HOST}
    configured = connections.configure_settings({"default": {}, alias: {**own, "PORT": postgres_server.port}})
    connections.settings[alias] = configured[alias]
    call_command("migrate", run_syncdb=True, database=alias, verbosity=0)
    yield alias
    connections[alias].close()
    del connections.settings[alias], connections[alias]
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def using(request: pytest.FixtureRequest) -> Iterator[str]:
    """The alias of the outbox's database, with its tables: once on each."""
    alias = "other" if request.param == "sqlite" else request.getfixturevalue("postgres")
    with outbox_on(alias):
        yield alias


@contextmanager
def outbox_on(alias: str) -> Iterator[None]:
    with override_settings(PROMENADE_BUS_OUTBOX={**QUICK, "using": alias}):
        try:
            yield
        finally:
            bus.close()
            run_in_thread(_forget, alias)


def run_in_thread(function: Any, *arguments: Any) -> None:
    """Also from async code, to which Django gives no connection."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def _forget(alias: str) -> None:
    """Empties the tables."""
    for model in (OutboxEvent, InboxMark, Order):
        model._default_manager.using(alias).all().delete()
    connections.close_all()


# --- writing ----------------------------------------------------------------------------------------------


def test_an_event_is_a_row_of_its_transaction(using: str) -> None:
    """It is there with the commit, and goes with the transaction or the savepoint."""
    first = placed(1)
    with transaction.atomic(using=using):
        Order.objects.using(using).create(number=1)
        outbox.publish(PLACED, first, headers={"trace": "1"})
        with suppress(Stop), transaction.atomic(using=using):
            outbox.publish(PLACED, placed(2))
            raise Stop
    with suppress(Stop), transaction.atomic(using=using):
        outbox.publish(PLACED, placed(3))
        raise Stop
    [row] = rows(using)
    assert (row.event_id, row.topic, row.key) == (str(first.event_id), PLACED.name, str(first.aggregate_id))
    assert json.loads(row.headers or "") == {"trace": "1"}
    assert json.loads(bytes(row.body))["data"] == {"number": 1}
    assert str(row) == f"{first.event_id} of shop.order.placed"
    assert row.partition == partition_of_relay(row.key)
    assert (row.transaction_id > 0) is (connections[using].vendor == "postgresql")
    assert abs(datetime.now(UTC) - row.written_at) < timedelta(minutes=1)


def test_mistakes_are_raised_where_they_are_made() -> None:
    """Outside of a transaction, in async code, and for events that do not fit; nothing is written."""
    with pytest.raises(TransactionManagementError, match=r"inside of transaction\.atomic\(\): the event"):
        outbox.publish(PLACED, placed())
    wrong: Any = Receipted(aggregate_id=uuid4())
    with transaction.atomic(), pytest.raises(EventTypeMismatch):
        outbox.publish(PLACED, wrong)
    assert rows("default") == []


async def test_async_code_is_refused() -> None:
    """A transaction belongs to a thread."""
    with pytest.raises(SynchronousOnlyOperation, match="in sync_to_async"):
        outbox.publish(PLACED, placed())


@pytest.mark.once
def test_writers_and_relays_agree_on_the_partitions() -> None:
    """Each key is in the same of the partitions."""
    keys = [str(uuid4()) for _ in range(100)] + ["", "ä"]
    assert [partition_of(key) for key in keys] == [partition_of_relay(key) for key in keys]
    assert {partition_of(str(number)) for number in range(1000)} == {*range(PARTITIONS)}


def test_the_tables_are_those_of_the_relay(using: str) -> None:
    """The migrations make every table, column, key and index that SQLAlchemy would make."""
    database = database_of(connections[using])
    asyncio.run(check(database))
    database.close()
    with connections[using].cursor() as cursor:
        look = connections[using].introspection
        for table in outbox_tables(MetaData()):
            columns = look.get_table_description(cursor, table.name)
            nullable = {column.name: bool(column.nullable) for column in table.columns}
            assert {column.name: bool(column.null_ok) for column in columns} == nullable, table.name
            key = look.get_primary_key_columns(cursor, table.name)
            assert key == [column.name for column in table.primary_key], table.name
            indexes = set(look.get_constraints(cursor, table.name))
            assert indexes >= {index.name for index in table.indexes}, table.name


@pytest.mark.once
def test_the_migrations_are_complete() -> None:
    """The models have no change that a migration lacks."""
    call_command("makemigrations", "promenade_bus_outbox", check=True, dry_run=True, verbosity=0)


# --- the relay --------------------------------------------------------------------------------------------


def test_the_relay_runs_beside_the_handlers(
    using: str, shop: DjangoBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a server on memory, without SQLAlchemy: a commit wakes it, and an event arrives as published."""
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    got: list[tuple[Placed, Delivery]] = []
    handled = threading.Semaphore(0)

    @shop.subscribe(PLACED, name="looking")
    def look(event: Placed, delivery: Delivery) -> None:
        got.append((event, delivery))
        handled.release()

    key = uuid4()
    events = [placed(number, key) for number in range(5)]
    shop.serve(Role.SERVER)
    for event in events:
        with transaction.atomic(using=using):
            outbox.publish(PLACED, event, headers={"number": str(event.number)})
    for _ in events:
        assert handled.acquire(timeout=20)
    assert sorted((event for event, _ in got), key=lambda event: event.number) == events
    assert all(delivery.headers == {"number": str(event.number)} for event, delivery in got)
    wait_until(lambda: rows(using) == [], "the rows are deleted", 20)
    report = shop.close()
    assert report is not None
    assert report.completed
    assert len(RELAYS) == 0


def test_a_process_without_handlers_runs_no_relay(shop: DjangoBus) -> None:
    """A command that publishes leaves the rows to others; so does a server, if the setting says so."""
    with transaction.atomic():
        outbox.publish(PLACED, placed())
    with override_settings(PROMENADE_BUS_OUTBOX=QUICK):
        shop.open()
        assert len(RELAYS) == 0
        shop.close()
    with override_settings(PROMENADE_BUS_OUTBOX={"relay": False}):
        shop.serve(Role.SERVER)
        assert len(RELAYS) == 0
    assert len(rows("default")) == 1
    OutboxEvent.objects.all().delete()


def test_a_late_transaction_keeps_its_place(postgres: str, postgres_server: PostgresServer) -> None:
    """On PostgreSQL an event waits for transactions that began before its own, and the relay sees that."""
    database = connections[postgres].settings_dict["NAME"]
    with outbox_on(postgres):
        with postgres_server.connect(database, autocommit=False) as earlier:
            earlier.execute("SELECT pg_current_xact_id()")
            with transaction.atomic(using=postgres):
                outbox.publish(PLACED, placed())
            assert _status().held == 1
        assert _status().held == 0


def _status() -> OutboxStatus:
    made, close = outbox_of(open_bus(MEMORY))
    try:
        return asyncio.run(made.status())
    finally:
        close()


def test_the_commands_find_the_outbox(using: str, capfd: pytest.CaptureFixture[str]) -> None:
    """``manage.py promenade_bus outbox status`` looks into the project's; the relay refuses memory."""
    with transaction.atomic(using=using):
        outbox.publish(PLACED, placed())
    call_command("promenade_bus", "outbox", "status", "--json")
    assert json.loads(capfd.readouterr().out)["waiting"] == 1
    with pytest.raises(Exception, match="exit status 2"):
        call_command("promenade_bus", "outbox", "relay")
    assert "runs on 'memory', which hands events to handlers of this process only" in capfd.readouterr().err


@pytest.mark.usefixtures("shared")
def test_the_relay_of_the_command_delivers_to_a_shared_adapter(shop: DjangoBus) -> None:
    """``promenade_bus_django.outbox.relay:application`` is the project's, on a bus without handlers."""
    got: list[int] = []
    shop.subscribe(PLACED, lambda event: got.append(event.number), name="looking")
    with override_settings(PROMENADE_BUS_OUTBOX={**QUICK, "relay": False}):
        worker = shop.for_worker()
        worker.start()
        with transaction.atomic():
            outbox.publish(PLACED, placed(3))
        made = relay.application
        assert made.bus.subscriptions == ()

        async def deliver() -> None:
            async with made.bus:
                await made.start(relay=True)
                await asyncio.to_thread(wait_until, lambda: got == [3], "it is handled", 20)
                await made.close()

        asyncio.run(deliver())
        worker.close()
    assert rows("default") == []
    with pytest.raises(AttributeError, match="has no attribute 'applicatoin'"):
        relay.applicatoin  # noqa: B018


def test_the_probe_looks_at_the_tables_where_no_relay_runs(shop: DjangoBus) -> None:
    """A web server without the relay reports events that wait too long."""
    probe = {"outbox": {"waiting": 1}}
    config = {**MEMORY, "bus": {**MEMORY["bus"], "health": {"probes": [probe]}}}
    with override_settings(PROMENADE_BUS=config):
        with transaction.atomic():
            outbox.publish(PLACED, placed())
        check = shop.health().checks["outbox"]
    assert check.status is HealthStatus.DEGRADED
    assert "1 events wait" in check.summary
    OutboxEvent.objects.all().delete()


def test_the_setting_is_checked() -> None:
    """Unknown keys, databases and kinds of databases are errors that say what to do."""
    cases: list[tuple[Any, str]] = [
        ({"usin": "default"}, "unknown key 'usin' in PROMENADE_BUS_OUTBOX; did you mean 'using'"),
        ({"using": "nowhere"}, "uses the database 'nowhere', which is not in DATABASES"),
        ([], "has to be a mapping, got list"),
    ]
    for setting, message in cases:
        with override_settings(PROMENADE_BUS_OUTBOX=setting):
            [found] = checks.run_checks(tags=["promenade_bus"])
        assert found.id == "promenade_bus.E004"
        assert message in found.msg


def test_a_relay_without_its_distribution_says_what_to_install(
    shop: DjangoBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing rows needs Django only."""
    monkeypatch.setitem(sys.modules, "promenade_bus_outbox", None)
    missing = pytest.raises(ImproperlyConfigured, match=r"pip install 'promenade-bus-django\[outbox\]'")
    with override_settings(PROMENADE_BUS_OUTBOX=QUICK), missing:
        shop.serve(Role.SERVER)
    shop.open()


def test_a_database_that_is_away_is_tried_again(
    shop: DjangoBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server starts all the same; missing tables are an error that says what to run."""
    got: list[int] = []
    shop.subscribe(PLACED, lambda event: got.append(event.number), name="looking")
    database = connections.settings["other"]["NAME"]
    with override_settings(PROMENADE_BUS_OUTBOX={**QUICK, "using": "other"}):
        try:
            connections.settings["other"]["NAME"] = str(tmp_path / "missing" / "app.db")
            shop.serve(Role.SERVER)
            assert "the database of the outbox does not answer: unable to open" in caplog.text
            connections.settings["other"]["NAME"] = str(tmp_path / "empty.db")
            with pytest.raises(ImproperlyConfigured, match=r"no table 'promenade_outbox'.*py migrate"):
                shop.publish(PLACED, placed(1))
        finally:
            connections.settings["other"]["NAME"] = database
        shop.publish(PLACED, placed(1))
        shop.drain(5)
        assert got == [1]
        assert len(RELAYS) == 1


# --- the inbox --------------------------------------------------------------------------------------------


def delivery(message_id: str, *, redriven: bool = False) -> Delivery:
    return Delivery(
        topic=PLACED.name,
        subscription="receipts",
        message_id=message_id,
        attempt=1,
        redelivered=False,
        published_at=datetime.now(UTC),
        headers={},
        redriven=redriven,
        group="shop.receipts",
    )


def test_effects_happen_once(using: str, caplog: pytest.LogCaptureFixture) -> None:
    """A redelivery is acknowledged; another event, and a redriven dead letter, are handled."""
    inbox = Inbox()
    calls: list[int] = []

    @inbox.handler
    def handle(event: Placed) -> None:
        Order.objects.using(using).create(number=len(calls))
        calls.append(event.number)

    handle(placed(1), delivery("a"))
    handle(placed(1), delivery("a"))
    handle(placed(2), delivery("b"))
    handle(placed(1), delivery("a", redriven=True))
    assert calls == [1, 2, 1]
    assert Order.objects.using(using).count() == 3
    assert [(str(mark), mark.service) for mark in InboxMark.objects.using(using).order_by("event_id")] == [
        ("a of shop.order.placed by receipts", "shop"),
        ("b of shop.order.placed by receipts", "shop"),
    ]
    assert "it was redriven" in caplog.text


def test_a_failure_leaves_neither_effects_nor_the_mark(using: str) -> None:
    """The next attempt handles the event; events that the handler publishes belong to its transaction."""
    inbox = Inbox()

    @inbox.handler
    def handle(event: Placed, delivery: Delivery) -> None:
        Order.objects.using(using).create(number=event.number)
        outbox.publish(PLACED, placed(event.number + 1))
        if delivery.attempt == 1:
            raise Stop

    with pytest.raises(Stop):
        handle(placed(1), delivery("a"))
    assert (Order.objects.using(using).count(), len(rows(using))) == (0, 0)
    assert not InboxMark.objects.using(using).exists()


def test_old_marks_are_deleted(using: str) -> None:
    """By handlers now and then, and by ``clean``; young ones stay."""
    inbox = Inbox(keep=timedelta(hours=1))
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    for number in range(3):
        InboxMark.objects.using(using).create(
            service="shop", subscription="s", topic="t", event_id=str(number), handled_at=long_ago
        )
    inbox.handler(lambda event: None)(placed(), delivery("young"))
    assert [mark.event_id for mark in InboxMark.objects.using(using)] == ["young"]
    assert inbox.clean() == 0
    with pytest.raises(ValueError, match="keep must be more than 0"):
        Inbox(keep=timedelta(0))


# --- the inbox of async handlers --------------------------------------------------------------------------


def as_the_bus_calls(handler: Any) -> Any:
    """With the connections of the event, which end with it."""
    return with_connections(handler, KeptConnections())


async def orders(using: str) -> list[int]:
    found = [order.number async for order in Order.objects.using(using).order_by("number")]
    await sync_to_async(connections.close_all)()
    return found


async def test_effects_of_an_async_handler_happen_once(using: str) -> None:
    """Django's async calls are in the transaction of the mark; another event is handled."""
    calls: list[int] = []

    async def handle(event: Placed) -> None:
        await Order.objects.using(using).acreate(number=event.number)
        calls.append(event.number)

    handled = as_the_bus_calls(Inbox().handler(handle))
    await handled(placed(1), delivery("a"))
    await handled(placed(1), delivery("a"))
    await handled(placed(2), delivery("b"))
    await handled(placed(3), delivery("a", redriven=True))
    assert calls == [1, 2, 3]
    assert await orders(using) == [1, 2, 3]


@pytest.mark.parametrize("ending", ["an error", "a cancellation"])
async def test_an_async_handler_that_does_not_return_leaves_nothing(using: str, ending: str) -> None:
    """Neither effects, nor events that it published, nor the mark; the next attempt handles the event."""
    written, failing = asyncio.Event(), True

    async def handle(event: Placed, delivery: Delivery) -> None:
        await Order.objects.using(using).acreate(number=event.number)
        await sync_to_async(outbox.publish)(PLACED, placed(event.number + 1))
        if failing:
            written.set()
            if ending == "an error":
                raise Stop
            await asyncio.Event().wait()

    handled = as_the_bus_calls(Inbox().handler(handle))
    attempt = asyncio.create_task(handled(placed(1), delivery("a")))
    await asyncio.wait_for(written.wait(), 30)
    if ending == "a cancellation":
        attempt.cancel()
    with pytest.raises(Stop if ending == "an error" else asyncio.CancelledError):
        await attempt
    assert await orders(using) == []
    assert await sync_to_async(rows)(using) == []
    failing = False
    await handled(placed(1), delivery("a"))
    assert await orders(using) == [1]
    assert len(await sync_to_async(rows)(using)) == 1
    await sync_to_async(connections.close_all)()


async def test_async_handlers_have_a_transaction_each(postgres: str) -> None:
    """One that is at work takes no part in the commit of another one."""
    written, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: Placed) -> None:
        await Order.objects.using(postgres).acreate(number=event.number)
        if event.number == 1:
            written.set()
            await go_on.wait()
            raise Stop

    handled = as_the_bus_calls(Inbox().handler(handle))
    with outbox_on(postgres):
        first = asyncio.create_task(handled(placed(1), delivery("a")))
        await asyncio.wait_for(written.wait(), 30)
        await handled(placed(2), delivery("b"))
        assert await orders(postgres) == [2]
        go_on.set()
        with pytest.raises(Stop):
            await first
        assert await orders(postgres) == [2]


async def test_a_cancellation_in_the_first_moment_leaves_no_open_transaction(using: str) -> None:
    """Also while the transaction begins, which runs to its end in its thread."""

    async def handle(event: Placed) -> None:
        await Order.objects.using(using).acreate(number=event.number)

    handled = as_the_bus_calls(Inbox().handler(handle))
    for turns in range(6):
        attempt = asyncio.create_task(handled(placed(1), delivery(f"a{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempt.cancel()
        with suppress(asyncio.CancelledError):
            await attempt
    await handled(placed(2), delivery("b"))
    assert 2 in await orders(using)


def test_an_inline_bus_takes_the_place_of_the_relay() -> None:
    """In a test no row is written: the event is handled after the commit."""
    before, looked = [*bus._declared], list[int]()

    async def look(event: Placed) -> None:
        looked.append(event.number)

    try:
        bus.subscribe(PLACED, Inbox().handler(lambda event: None), name="inbox")
        bus.subscribe(PLACED, Inbox().handler(look), name="async inbox")
        with inline_bus() as events:
            with transaction.atomic():
                outbox.publish(PLACED, placed(5))
                events.expect_nothing()
            assert events.expect(PLACED).number == 5
            with suppress(Stop), transaction.atomic():
                outbox.publish(PLACED, placed(6))
                raise Stop
        assert [event.number for event in events.of(PLACED)] == [5]
        assert rows("default") == []
        assert Receipt.objects.get().number == 5
        assert InboxMark.objects.count() == 2
        assert looked == [5]
    finally:
        bus._declared[:] = before
        InboxMark.objects.all().delete()

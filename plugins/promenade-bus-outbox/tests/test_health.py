"""The health probe: what is wrong with an outbox, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bus_core import Bus, HealthReport, HealthStatus, open_bus
from outbox_support.stage import Moved, Stage, until
from promenade_bus_outbox import Outbox
from support.remote import Server, remote_plugin


def moved(number: int = 0) -> Moved:
    return Moved(aggregate_id=uuid4(), number=number)


@asynccontextmanager
async def watched(server: Server | None = None, **options: Any) -> AsyncIterator[Bus]:
    """A bus with the probe."""
    health = {"probes": [{"outbox": options}]}
    adapter = "memory" if server is None else "remote"
    plugins = [] if server is None else [remote_plugin(server)]
    async with open_bus({"bus": {"adapter": adapter, "health": health}}, plugins=plugins) as bus:
        yield bus


def found(report: HealthReport) -> tuple[HealthStatus, str]:
    check = report.checks["outbox"]
    return check.status, check.summary


async def test_all_is_well(async_stage: Stage) -> None:
    """The figures are those of the outbox."""
    async with (
        watched(Server()) as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables, poll=0.02) as outbox,
    ):
        await async_stage.publish(outbox, moved())
        await until(lambda: async_stage.waiting() == 0, "it is delivered")
        report = await bus.health()
        assert found(report) == (HealthStatus.HEALTHY, "0 events wait for the relay, the oldest for 0.0 s")
        assert report.checks["outbox"].figures == {
            "waiting": 0,
            "oldest_s": 0.0,
            "held": 0,
            "refused": 0,
            "kept": 0,
            "relays": 1,
        }


async def test_a_probe_without_an_outbox_says_so() -> None:
    """It was configured, and nothing is there to look at."""
    async with watched(Server()) as bus:
        status, text = found(await bus.health())
    assert status is HealthStatus.DEGRADED
    assert text.startswith("no Outbox was made for this bus")


async def test_events_that_wait_for_long_degrade(async_stage: Stage) -> None:
    """With how to start a relay, where none runs."""
    async with watched(Server(), oldest="1s", waiting=2) as bus:
        outbox = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
        await async_stage.publish(outbox, moved())
        assert found(await bus.health())[0] is HealthStatus.HEALTHY
        await async_stage.publish(outbox, moved())
        assert "2 events wait: the relay is slower" in found(await bus.health())[1]
        table = async_stage.tables.events
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        with async_stage.connect() as connection, connection.begin():
            connection.execute(table.update().values(written_at=long_ago))
        status, text = found(await bus.health())
    assert status is HealthStatus.DEGRADED
    assert ": no relay runs; start one with 'promenade-bus outbox relay'" in text


async def test_the_transaction_that_holds_everything_up_is_named(postgres: Stage) -> None:
    """By its process."""
    async with (
        watched(Server(), oldest="1ms") as bus,
        Outbox(bus, postgres.sessions, postgres.tables, poll=0.02) as outbox,
    ):
        with postgres.connect() as connection, connection.begin():
            pid = connection.exec_driver_sql("SELECT pg_backend_pid(), pg_current_xact_id()").one()[0]
            await postgres.publish(outbox, moved())
            await asyncio.sleep(0.01)
            status, text = found(await bus.health())
    assert status is HealthStatus.DEGRADED
    assert f"1 events wait for the transaction of process {pid}, 'promenade' in the database" in text


async def test_refused_events_and_a_bus_in_memory_degrade(async_stage: Stage) -> None:
    """Both are said."""
    async with watched() as bus:
        table = async_stage.tables.events
        row = {"partition": 0, "event_id": "e1", "topic": "No Topic", "key": "k", "body": b"{}"}
        with async_stage.connect() as connection, connection.begin():
            connection.execute(table.insert(), {**row, "written_at": datetime.now(UTC)})
        async with Outbox(bus, async_stage.sessions, async_stage.tables, poll=0.02):
            cause = table.select().with_only_columns(table.c.cause)
            await until(lambda: bool(async_stage.scalar(cause)), "it is set aside")
            status, text = found(await bus.health())
    assert status is HealthStatus.DEGRADED
    assert "the bus has refused 1 events for good; the first is e1 of 'No Topic': InvalidTopic" in text
    assert "the adapter 'memory' does not outlive this process" in text


async def test_a_relay_that_fails_is_named(sqlite: Stage) -> None:
    """With what it cannot do."""
    async with (
        watched(Server()) as bus,
        Outbox(bus, sqlite.sessions, sqlite.tables, poll=0.02) as outbox,
    ):
        sqlite.execute("ALTER TABLE promenade_outbox RENAME COLUMN headers TO away")
        await until(lambda: outbox.problem is not None, "it fails")
        status, text = found(await bus.health())
        sqlite.execute("ALTER TABLE promenade_outbox RENAME COLUMN away TO headers")
    assert status is HealthStatus.DEGRADED
    assert text.startswith("the relay of the outbox cannot deliver events: OperationalError")

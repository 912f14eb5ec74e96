"""Groups in a database: the commands, and what health says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from bus_core import (
    BaseEvent,
    Bus,
    BusError,
    CheckResult,
    DeadLetterFilter,
    HealthStatus,
    Outcome,
    Topic,
    open_bus,
)
from bus_core.abc import ReplayFilter
from bus_core.adapters import GroupInUse
from promenade_bus_postgres.command import postgres_command
from promenade_bus_postgres.config import ProbeOptions
from promenade_bus_postgres.groups import PostgresGroups
from promenade_bus_postgres.health import PostgresProbe
from support.consuming import TOPIC, acks, buried, message, receive, spec, until
from support.heartbeats import beating, die
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once


@pytest.fixture
def configured(schema: Schema, tmp_path: Path) -> Path:
    """The configuration file of a bus in a schema; it does not migrate by itself."""
    path = tmp_path / "app.yaml"
    path.write_text(json.dumps(schema.config(migrate=False)), encoding="utf-8")
    return path


def run(configured: Path, *arguments: str) -> Result:
    return CliRunner().invoke(postgres_command(), [*arguments, "--config", str(configured)])


async def leave_three(schema: Schema) -> None:
    """A group with three events that nobody has settled, and one without."""
    async with schema.started() as adapter:
        for name in ("ledger", "mail"):
            await (await adapter.open_consumer(spec(name))).close()
        await adapter.publish([message(number) for number in range(3)])
        mail = await adapter.open_consumer(spec("mail"))
        await mail.settle(acks(await receive(mail, 3)))
        await mail.close()


async def test_migrating(schema: Schema, configured: Path) -> None:
    """The command makes the tables once, grants a role what it needs, and prints plain SQL."""
    schema.server.ask(f"CREATE ROLE role_{schema.name}")
    printed = await asyncio.to_thread(
        run, configured, "migrate", "--sql", "--grant-to", f"role_{schema.name}"
    )
    assert printed.exit_code == 0
    assert f'CREATE SCHEMA IF NOT EXISTS "{schema.name}";' in printed.output
    assert f'GRANT USAGE ON SCHEMA "{schema.name}" TO "role_{schema.name}";' in printed.output
    assert schema.server.ask(f"SELECT to_regclass('{schema.name}.promenade_event')") == [(None,)]
    made = await asyncio.to_thread(run, configured, "migrate", "--grant-to", f"role_{schema.name}")
    assert made.output == (
        f"applied version 1: the first tables\ngranted to role_{schema.name} what a running bus does\n"
    )
    again = await asyncio.to_thread(run, configured, "migrate")
    assert again.output == f"the tables in the schema {schema.name} are up to date\n"
    async with schema.started(migrate=False):
        pass
    schema.drop()
    schema.server.ask(f"DROP ROLE role_{schema.name}")


async def test_groups_are_listed_and_removed(schema: Schema, configured: Path) -> None:
    """A group is listed with what it is owed; one that is owed something is removed only by force."""
    await leave_three(schema)
    listed = await asyncio.to_thread(run, configured, "groups", "--json")
    assert [(each["group"], each["backlog"]) for each in json.loads(listed.output)] == [
        ("tests.ledger", 3),
        ("tests.mail", 0),
    ]
    refused = await asyncio.to_thread(run, configured, "forget", "tests.ledger")
    assert refused.exit_code == 1
    assert "has 0 instances and 3 unsettled events; use --force" in refused.output
    unknown = await asyncio.to_thread(run, configured, "forget", "tests.ledger", "--topic", "a.b.c")
    assert "there is no group 'tests.ledger' on 'a.b.c' in the database at 127.0.0.1:" in unknown.output
    forced = await asyncio.to_thread(run, configured, "forget", "tests.ledger", "--force")
    assert forced.output == f"removed tests.ledger from {TOPIC}; 3 events were not settled\n"
    assert schema.ask("SELECT service_group FROM promenade_subscription") == [("tests.mail",)]


async def test_forgetting_waits_for_a_verdict(schema: Schema) -> None:
    """A new process removes a group whose instance has died, and none whose instance lives."""
    async with schema.started(lease=60.0) as other, schema.started(lease=6.0) as operator:
        groups = PostgresGroups(operator.running)
        await other.open_consumer(spec())
        async with beating(other.running.heartbeats):
            with pytest.raises(GroupInUse, match="has 1 instance and"):
                await groups.forget("tests.audit")
        await die(other.running.heartbeats)  # its lease is over soon
        rename = "UPDATE promenade_owner SET name = 'dead.0.2'"
        schema.ask(rename)
        (report,) = await groups.forget("tests.audit")
        assert (report.group, report.instances) == ("tests.audit", 0)
        assert schema.ask("SELECT 1 FROM promenade_subscription") == []


async def test_another_adapter(tmp_path: Path) -> None:
    """The command says that the configuration selects another adapter."""
    path = tmp_path / "app.yaml"
    path.write_text("app: {name: shop}\nbus: {adapter: memory}\n", encoding="utf-8")
    result = await asyncio.to_thread(run, path, "migrate")
    assert isinstance(result.exception, BusError)
    assert "selects the adapter 'memory', not 'postgres'" in str(result.exception)


async def test_a_group_that_was_removed_while_it_is_open(schema: Schema) -> None:
    """Its subscription is told so, instead of waiting for ever."""
    async with schema.bus(poll=0.05) as bus:
        subscription = bus.subscribe(TOPIC, lambda event: None, name="ledger")
        await subscription.ready()
        schema.ask("DELETE FROM promenade_subscription")
        async with asyncio.timeout(20):
            while (check := (await bus.health()).checks["bus"]).status is HealthStatus.HEALTHY:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "was removed from the database while it was open" in check.summary


async def test_an_orphan_is_named(schema: Schema) -> None:
    """A group that no instance has had for long degrades health by its name, until it is served."""
    await leave_three(schema)
    async with schema.started(retention={"orphaned_after": 3600.0}) as adapter:
        serving = await adapter.open_consumer(spec("mail"))
        schema.ask("UPDATE promenade_subscription SET served = served - 4000")
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.degraded == (
            f"no instance has subscribed 'tests.ledger' to '{TOPIC}' for long, and its events are kept for "
            "ever: subscribe it, or remove it with `promenade-bus postgres forget`"
        )
        heir = await adapter.open_consumer(spec("ledger"))
        await adapter.running.database.run(adapter.upkeep.look)
        await until(lambda: adapter.degraded is None, "all is well")
        for each in (serving, heir):
            await each.close()


async def test_a_redrive_and_a_replay_find_who_serves_the_group(schema: Schema) -> None:
    """They go to the pattern that is served, and not to the topic that the subscription had before."""
    async with schema.started() as adapter:
        before = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        taken = await receive(before, 2)
        await before.settle([buried(taken[0]), *acks(taken[1:])])
        await before.close()
        now = await adapter.open_consumer(spec(topic="test.#", start="latest"))
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        again = await receive(now, 1)
        assert [each.message.key for each in again] == ["0"]
        await now.settle(acks(again))
        told = await adapter.admin.replay("tests.audit", ReplayFilter(), replay_id="once", limit=9)
        assert (told.events, told.unsettled) == (2, 0)
        assert sorted(each.message.key for each in await receive(now, 2)) == ["0", "1"]
        await now.close()


async def test_a_redrive_waits_where_it_was_when_nobody_serves_the_group(schema: Schema) -> None:
    """It goes to the subscription that failed, and from there to whoever serves the group first."""
    async with schema.started() as adapter:
        before = await adapter.open_consumer(spec())
        await adapter.publish([message()])
        await before.settle([buried((await receive(before, 1))[0])])
        await before.close()
        await (await adapter.open_consumer(spec(topic="test.*.happened", start="latest"))).close()
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        assert await adapter.backlog(spec()) == 1
        now = await adapter.open_consumer(spec(topic="test.#", start="latest"))
        await adapter.running.database.run(adapter.upkeep.look)
        (again,) = await receive(now, 1)
        assert (again.message.topic, again.attempt, again.owner_died) == (TOPIC, 1, False)
        assert await adapter.backlog(spec()) == 0
        await now.close()


async def test_retries_go_to_who_serves_the_group(schema: Schema) -> None:
    """They keep their attempts: that somebody else has them now counts as none."""
    async with schema.started() as adapter:
        before = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        taken = await receive(before, 2)
        kept = [Outcome("retry", each.receipt, attempt=3, history=(), delay=0.0) for each in taken]
        await before.settle(kept)
        await before.close()
        now = await adapter.open_consumer(spec(topic="test.#", start="latest"))
        for _ in range(2):
            await adapter.running.database.run(adapter.upkeep.look)
        again = await receive(now, 2)
        assert sorted((each.message.key, each.attempt) for each in again) == [("0", 3), ("1", 3)]
        await now.settle(acks(again))
        assert schema.ask("SELECT 1 FROM promenade_delivery") == []
        await now.close()


async def test_what_a_killed_instance_held_goes_to_who_serves_the_group(schema: Schema) -> None:
    """Its death counts, as it does for an instance with the same topic."""
    async with schema.started(lease=0.3) as dying, schema.started(lease=0.3) as adapter:
        before = await dying.open_consumer(spec())
        await dying.publish([message()])
        await receive(before, 1)
        now = await adapter.open_consumer(spec(topic="test.#", start="latest"))
        await die(dying.running.heartbeats)
        await until(lambda: adapter.running.heartbeats.dead, "it is taken for dead")
        await adapter.running.database.run(adapter.upkeep.look)
        (again,) = await receive(now, 1)
        assert (again.attempt, [each.error_type for each in again.history]) == (2, ["ConsumerDied"])
        await now.close()


async def test_a_retry_that_a_killed_instance_held_goes_to_who_serves_the_group(schema: Schema) -> None:
    """No handler ran, so that the death counts as no attempt; the retry is due when it was."""
    async with schema.started(lease=0.3) as dying, schema.started(lease=0.3) as adapter:
        before = await dying.open_consumer(spec())
        await dying.publish([message()])
        (failed,) = await receive(before, 1)
        assert await before.settle([Outcome("hold", failed.receipt, delay=1.0, attempt=2)]) == [None]
        now = await adapter.open_consumer(spec(topic="test.#", start="latest"))
        await die(dying.running.heartbeats)
        await until(lambda: adapter.running.heartbeats.dead, "it is taken for dead")
        await adapter.running.database.run(adapter.upkeep.look)
        (again,) = await receive(now, 1)
        assert (again.attempt, again.history, again.owner_died) == (2, (), False)
        await now.close()


async def test_a_topic_that_was_left_is_named(schema: Schema) -> None:
    """Health names a topic with waiting events at once, when the group is served on another only."""
    async with schema.started() as adapter:
        for topic in (TOPIC, "test.other"):
            await (await adapter.open_consumer(spec(topic=topic))).close()
        now = await adapter.open_consumer(spec(topic="test.new"))
        await adapter.publish([message()])
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.degraded == (
            f"nobody serves 'tests.audit' on '{TOPIC}', where events wait, and instances serve the group on "
            "another topic or pattern: start an instance that serves it, or remove it with "
            "`promenade-bus postgres forget --topic`"
        )
        heir = await adapter.open_consumer(spec())
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.degraded is None
        for each in (now, heir):
            await each.close()


async def check(bus: Bus, **options: float) -> CheckResult:
    probe = PostgresProbe(ProbeOptions(**options), bus.adapter)  # type: ignore[arg-type]
    return await probe.check(bus.state())


async def test_the_probe(schema: Schema) -> None:
    """It tells that all is well, with figures, and what is slow or behind, and what holds events up."""
    topic = Topic(TOPIC, BaseEvent)
    async with schema.bus() as bus:
        paused = bus.subscribe(topic, lambda event: None, name="ledger")
        await paused.ready()
        well = await check(bus, slow=10.0)
        assert (well.status, well.figures["backlog ledger"]) == (HealthStatus.HEALTHY, 0)
        assert "0 events waiting, nothing lost" in well.summary
        paused.pause()
        with schema.server.connect(autocommit=False) as holder:
            holder.execute(b"SELECT pg_current_xact_id()")
            pid = holder.info.backend_pid
            for _ in range(3):
                await bus.publish(topic, BaseEvent("thing.happened", uuid4()))
            bad = await check(bus, slow=1e-9, lag=3, held=1e-9)
        assert bad.status is HealthStatus.DEGRADED
        assert "a query took " in bad.summary
        assert "events wait for 'ledger' (3)" in bad.summary
        assert f"a transaction of process {pid} (user 'promenade', database 'postgres')" in bad.summary
        paused.resume()
        await bus.drain()
    assert (await check(bus)).status is HealthStatus.DEGRADED


async def test_the_probe_of_another_adapter() -> None:
    """On another adapter the probe is healthy and says so."""
    async with open_bus({"app": {"name": "tests"}, "bus": {"adapter": "memory"}}) as bus:
        found = await check(bus)
    assert found.status is HealthStatus.HEALTHY
    assert found.summary == "the bus runs on 'memory', not on PostgreSQL"

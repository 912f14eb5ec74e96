"""The rows that PostgreSQL reads for a claim: they do not grow with the deliveries of a subscription."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bus_core.abc import ReplayFilter
from promenade_bus_postgres import administration, lookout
from promenade_bus_postgres.claiming import Claims
from support.consuming import acks, message, receive, spec
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once

_HELD = 20_000

# Half of them are with a living owner, and half wait for a retry in an hour.
_FILL = """
INSERT INTO promenade_delivery (subscription, tx, seq, owner, due, delay)
SELECT %s, 1, number, CASE WHEN number %% 2 = 0 THEN %s ELSE 0 END,
    extract(epoch FROM now()) + 3600, 3600 FROM generate_series(1, %s) AS number"""

_EVENTS = 20_000

# Half of them are long since handled, and half are still to come.
_KEEP = f"""
INSERT INTO promenade_event (tx, topic, id, key, headers, body, published)
SELECT tx + CASE WHEN number < {_EVENTS // 2} THEN -number ELSE 0 END, topic, id || number, key, headers,
    body, published FROM (SELECT * FROM promenade_event ORDER BY tx, seq LIMIT 1) AS one,
    generate_series(1, {_EVENTS}) AS number"""


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def rows_looked_at(plan: Mapping[str, Any], table: str) -> int:
    """The rows of a table that a plan has read, also those that it has left out."""
    return sum(
        round((each["Actual Rows"] + each.get("Rows Removed by Filter", 0)) * each["Actual Loops"])
        for each in nodes(plan)
        if each.get("Relation Name") == table
    )


def carried_out(schema: Schema, plans: str, statement: bytes, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Runs a statement, and rolls it back; the plan, with the rows that each of its steps has read."""
    with schema.server.connect(autocommit=False) as connection:
        connection.execute(f"SET plan_cache_mode = {plans}".encode())
        connection.prepare_threshold = 0
        found = connection.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + statement, facts).fetchone()
        connection.rollback()
    assert found is not None
    (whole,) = found[0] if isinstance(found[0], list) else json.loads(found[0])
    plan: Mapping[str, Any] = whole["Plan"]
    return plan


def scans(plan: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The steps of a plan that read tables, for people."""
    told = ("Node Type", "Relation Name", "Index Name", "Filter", "Actual Rows", "Actual Loops")
    return [tuple(each.get(name) for name in told) for each in nodes(plan) if "Relation Name" in each]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
async def test_a_look_for_what_came_free(schema: Schema, plans: str, ordered: bool) -> None:
    """It reads what is due, and nothing else, however many deliveries are under way or wait for a retry."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(ordered=ordered))
        await adapter.publish([message(number) for number in range(5)])
        await receive(consumer, 5)
        schema.ask("UPDATE promenade_delivery SET owner = 0")
        schema.ask(_FILL, consumer.owner.subscription, consumer.owner.number, _HELD)
        if ordered:  # its retries wait with their owner
            schema.ask("UPDATE promenade_delivery SET owner = %s WHERE due > 0", consumer.owner.number)
        for table in ("delivery", "event", "owner", "subscription"):
            schema.ask(f"ANALYZE promenade_{table}")
        claims: Claims = consumer._claims
        facts = {**claims._facts, "limit": 3, "orphans": False, "dead": [], "beats": []}
        plan = carried_out(schema, plans, claims._free, facts)
        assert 3 <= rows_looked_at(plan, "promenade_delivery") < 100, scans(plan)
        assert len(await receive(consumer, 5)) == 5
        await consumer.close()


@pytest.mark.parametrize("is_analysed", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("topic", ["tests.thing.happened", "tests.#"])
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
async def test_a_claim_of_fresh_events(
    schema: Schema, plans: str, topic: str, ordered: bool, is_analysed: bool
) -> None:
    """It reads what it takes, and nothing else, however many events are behind and before the cursor."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(topic, ordered=ordered))
        claims: Claims = consumer._claims
        await adapter.publish([message(number) for number in range(5)])
        facts = {**claims._facts, "limit": 3}
        if topic == "tests.#":
            known, topics = claims._topics.matching(topic)
            facts.update(known=known, topics=topics, window=100)
        schema.ask(_KEEP)
        if is_analysed:
            schema.ask("ANALYZE promenade_event")
        schema.ask("UPDATE promenade_subscription SET active = %s", consumer.owner.number)
        plan = carried_out(schema, plans, claims._fresh, facts)
        assert 3 <= rows_looked_at(plan, "promenade_event") < 1000, scans(plan)
        await consumer.close()


@pytest.mark.parametrize("is_analysed", [False, True])
@pytest.mark.parametrize("topic", ["tests.thing.happened", "tests.#"])
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
async def test_a_look_for_news(schema: Schema, plans: str, topic: str, is_analysed: bool) -> None:
    """It reads one event and one delivery, however many are kept, under way, or wait for a retry."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(topic))
        await adapter.publish([message(0)])
        owner = consumer.owner
        schema.ask(_KEEP)
        schema.ask(_FILL, owner.subscription, owner.number, _HELD)
        schema.ask("UPDATE promenade_subscription SET cursor_tx = (SELECT max(tx) + 1 FROM promenade_event)")
        if is_analysed:
            schema.ask("ANALYZE")
        facts = {"all": [owner.subscription], "patterns": [owner.subscription] if topic == "tests.#" else []}
        plan = carried_out(schema, plans, adapter._sql(lookout._LOOK), facts)
        assert rows_looked_at(plan, "promenade_event") <= 2, scans(plan)
        assert rows_looked_at(plan, "promenade_delivery") <= 2, scans(plan)
        await consumer.close()


async def test_a_replay_passes_a_bounded_number_of_events_at_a_time(
    schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of other topics, and those that are not selected, are passed in steps; all others are found."""
    monkeypatch.setattr(administration, "_WINDOW", 4)
    monkeypatch.setattr(administration, "_AT_ONCE", 3)
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec())
        sent = [message(number) for number in range(8)]
        for number, each in enumerate(sent):
            others = [message(1, "test.other.happened")] * (number % 4)
            await adapter.publish([*others, each, *others])
        await consumer.settle(acks(await receive(consumer, 8)))
        counted = await adapter.admin.replay("tests.audit", ReplayFilter(), replay_id=None, limit=100)
        assert (counted.events, counted.unsettled, counted.is_done) == (8, 0, True)
        chosen = frozenset(each.id for each in (sent[0], sent[7]))
        where = ReplayFilter(event_ids=chosen)
        steps = 1
        while not (
            done := await adapter.admin.replay("tests.audit", where, replay_id="one", limit=100)
        ).is_done:
            steps += 1
        assert (done.events, steps > 5) == (2, True)
        assert {each.message.id for each in await receive(consumer, 2)} == chosen
        await consumer.close()

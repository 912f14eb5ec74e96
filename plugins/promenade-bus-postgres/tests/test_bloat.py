"""Tables under load: they stay small, although each settled event leaves dead rows behind."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.consuming import acks, message, spec
from support.postgres_schemas import Schema

pytestmark = [pytest.mark.once, pytest.mark.long]

_EVENTS = 60_000
_AT_ONCE = 500

_SIZES = """
SELECT relname, pg_table_size(oid), pg_stat_get_dead_tuples(oid), pg_stat_get_live_tuples(oid)
FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'"""


async def test_tables_stay_small(schema: Schema) -> None:
    """Autovacuum, as the tables set it, keeps up with settling and with retention."""
    retention = {"min_age": 0.0, "unsubscribed_max_age": 0.0}
    async with schema.started(retention=retention) as adapter:
        consumer = await adapter.open_consumer(spec())
        settled = 0

        async def publish() -> None:
            for first in range(0, _EVENTS, _AT_ONCE):
                batch = [message(number, body=b"x" * 200) for number in range(first, first + _AT_ONCE)]
                assert not any(await adapter.publish(batch))
                while first - settled > 5 * _AT_ONCE:  # noqa: ASYNC110 - the load stays even
                    await asyncio.sleep(0.001)

        publishing = asyncio.create_task(publish())
        while settled < _EVENTS:
            received = await consumer.receive(_AT_ONCE)
            assert not any(await consumer.settle(acks(received)))
            settled += len(received)
        await publishing
        deadline = time.monotonic() + 60
        while (found := _sizes(schema))["promenade_event"][1] > 2_500 or found["promenade_delivery"][
            1
        ] > 2_500:
            assert time.monotonic() < deadline, f"dead rows are not removed: {found}"
            await asyncio.sleep(0.2)
        # All events together would have 25 MB. What is left is the room of a few seconds.
        assert found["promenade_event"][0] < 12_000_000, found
        assert found["promenade_delivery"][0] < 6_000_000, found
        assert found["promenade_subscription"][0] < 500_000, found
        await consumer.close()


def _sizes(schema: Schema) -> dict[str, tuple[int, int, int]]:
    """The bytes, dead rows and live rows of each table."""
    rows = schema.ask(_SIZES, schema.name)
    return {name: (size, dead, live) for name, size, dead, live in rows}

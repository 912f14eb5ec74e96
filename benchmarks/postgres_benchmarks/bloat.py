"""Tables under load: the largest size of all tables and indexes, and the most dead rows, while events pass.

Both ways keep at most 2,500 events waiting. The bus removes settled events at once (``min_age: 0``), as the
queue by hand does. Its tables have their own settings of autovacuum, and the queue by hand has the defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import psycopg
from attrs import define

from postgres_benchmarks import by_hand, with_the_bus
from postgres_benchmarks.runs import database_on
from postgres_support.servers import PostgresServer
from promenade_benchmarks.batches import BATCH, ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["Bloat", "bytes_of_bodies", "grow"]

_MOST_WAITING: Final = 2_500
_PAUSE: Final = 0.001
_BETWEEN_LOOKS: Final = 1_000

_SIZES: Final = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0), coalesce(sum(pg_stat_get_dead_tuples(oid)), 0)
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"""


@define
class Bloat:
    """The most bytes of all tables and indexes that were seen, and the most dead rows."""

    size: int = 0
    dead: int = 0

    def look(self, server: PostgresServer, database: str) -> None:
        """Looks now."""
        ((size, dead),) = server.ask(_SIZES, database)
        self.size, self.dead = max(self.size, int(size)), max(self.dead, int(dead))


def bytes_of_bodies(events: int) -> int:
    """The bytes of so many documents."""
    return events * len(SERIALIZER.encode(order(0), topic=ORDER_PLACED.name, source="benchmark"))


def grow(server: PostgresServer, way: str, events: int) -> Bloat:
    """Lets so many events pass on one way."""
    seen = Bloat()
    with database_on(server) as url:
        database = url.rpartition("/")[2]

        def look(handled: int) -> None:
            if handled % _BETWEEN_LOOKS == 0:
                seen.look(server, database)

        if way == "bus":
            with_the_bus.prepare(url)
            asyncio.run(_by_bus(url, events, look))
        else:
            by_hand.prepare(url)
            _by_hand(url, events, look)
        seen.look(server, database)
    return seen


async def _by_bus(url: str, events: int, look: Callable[[int], None]) -> None:
    handled = 0

    async def handle(event: OrderPlaced) -> None:
        nonlocal handled
        handled += 1

    async with with_the_bus.open_on(url, retention={"min_age": 0}) as bus:
        await bus.subscribe(ORDER_PLACED, handle, name="orders").ready()
        for first in range(0, events, BATCH):
            await with_the_bus.put(bus, first)
            await asyncio.to_thread(look, first)
            while first + BATCH - handled > _MOST_WAITING:  # noqa: ASYNC110 - the load stays even
                await asyncio.sleep(_PAUSE)
        await bus.drain()


def _by_hand(url: str, events: int, look: Callable[[int], None]) -> None:
    with psycopg.connect(url, autocommit=True, prepare_threshold=1) as db:
        for first in range(0, events, BATCH):
            by_hand.put(db, first)
            look(first)
            if first + BATCH >= _MOST_WAITING:
                by_hand.take(db)
        while by_hand.take(db):
            pass

"""Bugs, planted into a consumer process: a scenario that does not find them shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bus_core import Outcome, Received
from promenade_bus_redis.consumer import GroupConsumer

Receive = Callable[[GroupConsumer, int], Any]


def plant(bug: str) -> None:
    """Changes the adapter of this process."""
    GroupConsumer.receive = _BUGS[bug](GroupConsumer.receive)  # type: ignore[method-assign]


def _acknowledge_first(receive: Receive) -> Receive:
    """An event is forgotten by the server before its handler has begun."""

    async def hasty(self: GroupConsumer, limit: int) -> Sequence[Received]:
        batch: Sequence[Received] = await receive(self, limit)
        await self.settle([Outcome("ack", received.receipt) for received in batch])
        return batch

    return hasty


def _drop_one(receive: Receive) -> Receive:
    """One event never reaches its handler."""
    dropped = False

    async def careless(self: GroupConsumer, limit: int) -> Sequence[Received]:
        nonlocal dropped
        batch: Sequence[Received] = await receive(self, limit)
        if batch and not dropped:
            dropped = True
            await self.settle([Outcome("ack", batch[0].receipt)])
            batch = batch[1:]
        return batch

    return careless


def _deliver_twice(receive: Receive) -> Receive:
    """One event reaches its handler twice."""
    repeated = False

    async def eager(self: GroupConsumer, limit: int) -> Sequence[Received]:
        nonlocal repeated
        batch: Sequence[Received] = await receive(self, limit)
        if batch and not repeated:
            repeated = True
            batch = [batch[0], *batch]
        return batch

    return eager


_BUGS: dict[str, Callable[[Receive], Receive]] = {
    "ack-first": _acknowledge_first,
    "drop-one": _drop_one,
    "deliver-twice": _deliver_twice,
}
BUGS = tuple(_BUGS)

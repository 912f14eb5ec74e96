"""Bugs, planted into a consumer process: a scenario that does not find them shows nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from bus_core import Outcome, Received
from promenade_bus_redis.consumer import GroupConsumer

Batch = Sequence[Received]


def plant(bug: str) -> None:
    """Changes what the adapter of this process receives."""
    change, receive = _BUGS[bug], GroupConsumer.receive

    async def receive_changed(self: GroupConsumer, limit: int) -> Batch:
        batch = await receive(self, limit)
        return await change(self, batch) if batch else batch

    GroupConsumer.receive = receive_changed  # type: ignore[method-assign]


_first = iter([True])  # of the batches of this process


async def _acknowledge_first(consumer: GroupConsumer, batch: Batch) -> Batch:
    """An event is forgotten by the server before its handler has begun."""
    await consumer.settle([Outcome("ack", received.receipt) for received in batch])
    return batch


async def _drop_one(consumer: GroupConsumer, batch: Batch) -> Batch:
    """One event never reaches its handler."""
    if not next(_first, False):
        return batch
    await consumer.settle([Outcome("ack", batch[0].receipt)])
    return batch[1:]


async def _deliver_twice(_consumer: GroupConsumer, batch: Batch) -> Batch:
    """One event reaches its handler twice."""
    return [batch[0], *batch] if next(_first, False) else batch


_BUGS: dict[str, Callable[[GroupConsumer, Batch], Awaitable[Batch]]] = {
    "ack-first": _acknowledge_first,
    "drop-one": _drop_one,
    "deliver-twice": _deliver_twice,
}
BUGS = tuple(_BUGS)

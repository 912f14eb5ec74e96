"""Bugs, planted into the processes of a run: a scenario that does not find them shows nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from bus_core import Outcome, Received
from promenade_bus_redis.pubsub.misses import Cause, Misses
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from promenade_bus_redis.streams.losses import Losses
from promenade_bus_redis.streams.stored_events import StoredEvents

Batch = Sequence[Received]


def plant(bug: str) -> None:
    """Changes the adapter of this process."""
    _BUGS[bug]()


def _change_batches(change: Callable[[GroupConsumer, Batch], Awaitable[Batch]]) -> None:
    """Changes what is received."""
    receive = GroupConsumer.receive

    async def receive_changed(self: GroupConsumer, limit: int) -> Batch:
        batch = await receive(self, limit)
        return await change(self, batch) if batch else batch

    GroupConsumer.receive = receive_changed  # type: ignore[method-assign]


_first = iter([True])  # of the batches, or gaps, of this process


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


def _overlook_one() -> None:
    """Of the events that were trimmed before they were read one is not counted."""
    lose_unread = Losses.lose_unread

    def lose_one_less(self: Losses, count: int, topic: str, group: str) -> None:
        lose_unread(self, max(0, count - 1), topic, group)

    Losses.lose_unread = lose_one_less  # type: ignore[method-assign]


def _forget_accepted() -> None:
    """Stored events are not remembered."""

    def note(_self: StoredEvents, _topics: object, _ids: object) -> None:
        pass

    StoredEvents.note = note  # type: ignore[method-assign]


def _miss_one_less() -> None:
    """Of the events that a lost connection cost one is not counted."""
    add = Misses.add

    def add_one_less(self: Misses, count: int, topic: str, subscription: str, cause: Cause) -> None:
        overlooked = cause == "not sent" and next(_first, False)
        add(self, count - overlooked, topic, subscription, cause)

    Misses.add = add_one_less  # type: ignore[method-assign]


def _never_doubt() -> None:
    """Held messages are started after a process pause, even those of other owners."""
    GroupConsumer.in_doubt = False  # type: ignore[method-assign, assignment]


_BUGS: dict[str, Callable[[], None]] = {
    "ack-first": partial(_change_batches, _acknowledge_first),
    "drop-one": partial(_change_batches, _drop_one),
    "deliver-twice": partial(_change_batches, _deliver_twice),
    "overlook-one": _overlook_one,
    "forget-accepted": _forget_accepted,
    "miss-one-less": _miss_one_less,
    "never-doubt": _never_doubt,
}
BUGS = tuple(_BUGS)

"""The declarations of this instance in the record, and reading the record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from bus_core import SubscriptionSpec
from bus_core.events import patterns_overlap
from promenade_bus_redis.config import RetentionOptions
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import DECLARE, NOTICE, REDATE, REMOVE, WITHDRAW, Script
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.service_record import (
    RetentionWish,
    ServiceRecord,
    Serving,
    SubscribedTopic,
    read_record,
)

__all__ = ["ServiceRecords"]

_ANNOUNCED_AGAIN: Final = 60.0
"""Seconds after which an instance repeats its declarations."""

_SETTLED: Final = 0.5
"""Seconds without a new subscription after which the declarations of an instance are complete."""

_FORGOTTEN_AFTER: Final = 60.0
"""Seconds for which an instance must be dead before its declarations are removed."""

_AT_ONCE: Final = 500


class ServiceRecords:
    """Declares the subscriptions of this instance, and reads those of all instances.

    ``name`` is the instance. A server with full memory accepts no declaration. It is then repeated later, and
    nothing waits for it, because unsettled events are kept as long as the group exists.
    """

    def __init__(self, pipe: Pipe, keys: Keys, name: str, service: str, retention: RetentionOptions) -> None:
        self._pipe = pipe
        self._key = keys.record
        self._name = name
        self._service = service
        self._wish = RetentionWish(
            service=service,
            settled=retention.min_age,
            unsubscribed=retention.unsubscribed_max_age,
            letters=retention.dead_letters_max_age,
        )
        self._own: dict[str, list[SubscriptionSpec]] = {}  # the subscriptions of each part
        self._left: set[str] = set()  # parts that were left and not yet withdrawn
        self.waiting: dict[str, tuple[float, Collection[str]]] = {}  # waiting parts: since when, for whom
        self._changed_at = time.monotonic()
        self._announced_at: float | None = None
        self._announced_settled = False
        self._looked_for = 0  # the next part to be checked on the server
        self._dead: dict[str, float] = {}  # instances seen dead, and since when
        self._leaving = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._asked = self._answered = 0  # the numbers of requests and of answered requests for servings
        self._served: Mapping[str, Sequence[Serving]] = {}

    @property
    def own(self) -> Collection[str]:
        """The groups that this instance serves."""
        return {spec.group for specs in self._own.values() for spec in specs}

    async def begin(self) -> None:
        """Declares that this instance runs. Raises ``RedisFailure``."""
        self._changed_at = time.monotonic()
        await self._announce([])

    async def enter(self, spec: SubscriptionSpec) -> None:
        """Declares a subscription before its group is created. Raises ``RedisFailure``."""
        part = _part_of(spec)
        self._own.setdefault(part, []).append(spec)
        self._changed_at = time.monotonic()
        await self._announce([part])

    def leave(self, spec: SubscriptionSpec) -> None:
        """Records that this subscription has ended here, unless there is another one like it.

        ``announce_left`` withdraws the declaration.
        """
        part = _part_of(spec)
        specs = self._own.get(part, [])
        if spec in specs:
            specs.remove(spec)
        if not specs and self._own.pop(part, None) is not None:
            self._left.add(part)
            self.waiting.pop(part, None)

    async def announce_left(self) -> None:
        """Withdraws the declarations of left subscriptions. Raises ``RedisFailure``; then it is repeated.

        If many leave at the same time, the first call withdraws its own, and the next one those of the
        others.
        """
        async with self._leaving:
            left = sorted(part for part in self._left if part not in self._own)
            await self._delete([f"serves {self._name} {part}" for part in left])
            if any(part in self._own for part in left):  # subscribed again meanwhile
                self._announced_at = None
            self._left.difference_update(left)

    async def close(self) -> None:
        """Declares that this instance is gone. Raises ``RedisFailure``."""
        await self._withdraw(self._name, self._wish.encode(), [*self._own, *self._left])

    async def announce_again(self, *, all_of_it: bool = False) -> None:
        """Repeats the declarations at intervals, and at once after the server lost them.

        Raises ``RedisFailure``.
        """
        if self._left:
            await self.announce_left()
        now = time.monotonic()
        is_news = self._is_settled and not self._announced_settled
        is_due = self._announced_at is None or now - self._announced_at >= _ANNOUNCED_AGAIN
        if all_of_it or is_news or is_due:
            await self._announce([*self._own])

    async def is_forgotten(self) -> bool:
        """Returns True if declarations are missing, as after a restart of the server with an older snapshot.

        With many subscriptions it checks the last one, and some others in turn. Raises ``RedisFailure``.
        """
        parts = [*self._own]
        first = self._looked_for if self._looked_for < len(parts) else 0
        self._looked_for = first + _AT_ONCE
        fields = [f"instance {self._name}"]
        for part in {*parts[first : self._looked_for], *parts[-1:]}:
            fields += [f"serves {self._name} {part}", f"part {part}"]
        own, *served = await self._pipe.call("HMGET", self._key, *fields, key=self._key)
        if own is None or None in served:
            return True
        return self._announced_settled and own.split(b" ")[1:2] != [b"1"]

    @property
    def _is_settled(self) -> bool:
        if self._announced_settled:
            return True
        return bool(self._own) and time.monotonic() - self._changed_at >= _SETTLED

    async def _announce(self, parts: Sequence[str]) -> None:
        is_settled, now = self._is_settled, time.monotonic()
        arguments = [self._name, "1" if is_settled else "0", self._wish.encode()]
        commands: list[Routed] = []
        for first in range(0, max(1, len(parts)), _AT_ONCE):
            said: list[str] = []
            for part in parts[first : first + _AT_ONCE]:
                if specs := self._own.get(part):
                    facts = {"service": self._service, "subscription": specs[-1].name}
                    said += [part, "1" if specs[-1].ordered else "0", json.dumps(facts)]
            commands.append((self._key, DECLARE.command([self._key], [*arguments, *said])))
        for reply in await self._pipe.call_many(commands):
            if isinstance(reply, RedisFailure):
                if reply.kind is Kind.FULL:
                    self._announced_at = None
                    return
                raise reply
        self._announced_settled = is_settled
        if len(parts) == len(self._own):
            self._announced_at = now

    async def _withdraw(self, name: str, wish: str, parts: Iterable[str]) -> None:
        fields = [f"serves {name} {part}" for part in parts]
        fields.append(f"instance {name}")
        for first in range(0, len(fields), _AT_ONCE):
            await self._pipe.run(WITHDRAW, [self._key], wish, *fields[first : first + _AT_ONCE])

    # --- all of them --------------------------------------------------------------------------------------

    async def read(self, alive: Collection[str]) -> ServiceRecord:
        """Returns the record. ``alive`` has the live instances. Raises ``RedisFailure``."""
        commands: list[Routed] = [(self._key, ("HGETALL", self._key)), (self._key, ("TIME",))]
        found, moment = _raise_first(await self._pipe.call_many(commands))
        now = int(moment[0]) * 1000 + int(moment[1]) // 1000
        settled = self._name if self._is_settled else ""
        return read_record(found, now, {*alive, self._name}, self._wish, settled)

    async def version(self) -> str:
        """Returns a value that changes with every declaration. Raises ``RedisFailure``."""
        found = await self._pipe.call("HGET", self._key, "count", key=self._key)
        return "" if found is None else found.decode(errors="replace")

    async def ahead_of(self, spec: SubscriptionSpec) -> Collection[str]:
        """Returns the instances that come before this one for an ordered subscription.

        They began earlier to serve some of the same events with another topic or pattern, as code that is
        being replaced does. Raises ``RedisFailure``.
        """
        servings = (await self._servings()).get(spec.group, [])
        own = (self._name, spec.topic)
        since = min((each.number for each in servings if (each.instance, each.topic) == own), default=0)
        return {
            each.instance
            for each in servings
            if each.instance != self._name
            and each.topic != spec.topic
            and each.ordered
            and each.number < since
            and patterns_overlap(each.topic, spec.topic)
        }

    async def _servings(self) -> Mapping[str, Sequence[Serving]]:
        """Returns the servings by group. Concurrent callers share a read that begins afterwards."""
        self._asked = number = self._asked + 1
        async with self._reading:
            if self._answered < number:
                answered, found = self._asked, dict[str, list[Serving]]()
                for serving in (await self.read(())).servings:
                    found.setdefault(serving.group, []).append(serving)
                self._answered, self._served = answered, found
            return self._served

    async def others_on(self, spec: SubscriptionSpec, alive: Collection[str]) -> Collection[str]:
        """Returns live instances that serve some of the same events of an ordered subscription, or stand by.

        Raises ``RedisFailure``.
        """
        return {
            each.instance
            for each in (await self.read(alive)).servings
            if each.instance != self._name
            and each.instance in alive
            and each.group == spec.group
            and each.ordered
            and patterns_overlap(each.topic, spec.topic)
        }

    def note_waiting(self, spec: SubscriptionSpec, instances: Collection[str]) -> None:
        """Records the active instances for which an ordered subscription waits, or none."""
        part = _part_of(spec)
        if instances:
            since, _ = self.waiting.get(part, (time.monotonic(), ()))
            self.waiting[part] = since, instances
        else:
            self.waiting.pop(part, None)

    async def notice(self, undeclared: Iterable[tuple[str, str]]) -> None:
        """Records undeclared groups, so that their age is counted from now on."""
        parts = [f"{topic} {group}" for topic, group in undeclared]
        for first in range(0, len(parts), _AT_ONCE):
            await self._pipe.run(NOTICE, [self._key], *parts[first : first + _AT_ONCE])

    async def remove(self, parts: Iterable[SubscribedTopic], *, force: bool = False) -> int:
        """Removes parts, unless they were declared again since they were read; returns their number.

        ``force`` removes them anyway. Raises ``RedisFailure``.
        """
        said = [(f"part {part.topic} {part.group}", "" if force else part.said) for part in parts]
        return await self._compare(REMOVE, said)

    async def remove_wishes(self, record: ServiceRecord, service: str) -> None:
        """Forgets the retention time of a service. Raises ``RedisFailure``."""
        wishes = {wish.encode() for wish in record.wishes if wish.service == service}
        gone = [f"instance {name}" for name, wish in record.instances.items() if wish in wishes]
        await self._delete([*(f"keeps {wish}" for wish in wishes), *gone])
        await self._pipe.call("HINCRBY", self._key, "count", 1, key=self._key)

    async def _compare(self, script: Script, said: Sequence[tuple[str, str]]) -> int:
        """Runs a script on fields that have not changed since they were read."""
        done = 0
        for first in range(0, len(said), _AT_ONCE):
            words = [word for pair in said[first : first + _AT_ONCE] for word in pair]
            done += await self._pipe.run(script, [self._key], *words)
        return done

    async def _delete(self, fields: Sequence[str]) -> None:
        for first in range(0, len(fields), _AT_ONCE):
            part = fields[first : first + _AT_ONCE]
            await self._pipe.call("HDEL", self._key, *part, key=self._key)

    async def tidy(self, record: ServiceRecord, alive: Collection[str]) -> None:
        """Removes covered parts and declarations of dead instances, and dates parts in the future again.

        Raises ``RedisFailure``.
        """
        now = time.monotonic()
        dead = record.instances.keys() - {*alive, self._name}
        self._dead = {name: self._dead.get(name, now) for name in dead}
        for name in [name for name, since in self._dead.items() if now - since >= _FORGOTTEN_AFTER]:
            parts = [f"{each.topic} {each.group}" for each in record.servings if each.instance == name]
            await self._withdraw(name, record.instances[name], parts)
        await self.remove(record.taken_up)
        await self._compare(REMOVE, record.stale)
        await self._compare(REDATE, record.early)


def _part_of(spec: SubscriptionSpec) -> str:
    return f"{spec.topic} {spec.group}"


def _raise_first(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, RedisFailure):
            raise reply
    return replies

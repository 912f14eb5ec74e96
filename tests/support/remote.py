"""A server in this process, and an adapter to it: how the engine gets on with one outside of the process.

The server outlives the buses. Whatever a real one may do to an adapter can be asked of it: `Server.faults`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count, takewhile
from typing import Any
from uuid import uuid4

import attrs

from bus_core import (
    AdapterError,
    Attempt,
    Bus,
    BusError,
    Clock,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    DeadLetterPage,
    DeadLetterTally,
    Features,
    LeaseLost,
    Message,
    Outcome,
    PublishError,
    PublishFailed,
    Received,
    SubscriptionSpec,
    TopicPattern,
    UnknownSubscription,
    open_bus,
)
from bus_core.events import tally_of
from support.inline_plugins import adapter_plugin


@attrs.define(eq=False)
class Entry:
    """A message on its way to one group. ``number`` is its place in the order of what was stored."""

    message: Message
    stored_at: datetime
    attempt: int = 1
    history: tuple[Attempt, ...] = ()
    redelivered: bool = False
    owner_died: bool = False
    fault: str | None = None
    waited: float = 0.0
    delay: float = 0.0  # until the attempt that comes next begins; 0 when it has
    owner: Consumer | None = None
    number: int = attrs.field(factory=count().__next__)


@attrs.define
class Group:
    """The subscriptions of one name, and what they have not settled."""

    spec: SubscriptionSpec
    ready: deque[Entry] = attrs.field(factory=deque)
    owned: list[Entry] = attrs.field(factory=list)
    parked: list[tuple[float, Entry]] = attrs.field(factory=list)  # with the delay that was asked for
    pattern: TopicPattern = attrs.field(init=False)
    waiting: list[asyncio.Future[None]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.pattern = TopicPattern(self.spec.topic)

    def put_back(self, entry: Entry) -> None:
        """Makes an entry the next one of those that were stored after it."""
        behind = sum(1 for _ in takewhile(lambda other: other.number < entry.number, self.ready))
        self.ready.insert(behind, entry)

    def changed(self) -> None:
        """Wakes those that wait for something to receive."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def cut(self, error: BusError) -> None:
        """Breaks off the calls that wait for something to receive."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)

    async def change(self) -> None:
        """Returns when something may be there to receive."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        await waiter


class Server:
    """Keeps groups and dead letters. What is parked waits for `due`, unless `hands_on` is true.

    `faults` maps a call (``publish``, ``open``, ``receive``, ``settle``, ``confirm``, ``backlog``,
    ``backlogs``) to what it is to do instead: a function of the call's argument, asked before each call.
    """

    def __init__(self, *, hands_on: bool = False) -> None:
        self.hands_on = hands_on
        self.log: list[Message] = []
        self.groups: dict[str, Group] = {}
        self.letters: dict[str, tuple[DeadLetter, Group, Entry]] = {}
        self.faults: dict[str, Callable[[Any], Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.consumers: list[Consumer] = []

    async def fault(self, call: str, argument: Any) -> Any:
        """The planned answer of the call; None when nothing is wrong with it."""
        self.calls.append((call, argument))
        wrong = self.faults.get(call)
        answer = None if wrong is None else wrong(argument)
        return await answer if asyncio.iscoroutine(answer) else answer

    def store(self, message: Message, *, fault: str | None = None) -> None:
        """Appends a message, as any client of the server may."""
        self.log.append(message)
        for group in self.groups.values():
            if group.pattern.matches(message.topic):
                group.ready.append(Entry(message, datetime.now(UTC), fault=fault))
                group.changed()

    def backlog(self, spec: SubscriptionSpec) -> int:
        """The entries that the groups of a subscription have not settled."""
        return sum(
            len(group.ready) + len(group.owned) + len(group.parked)
            for group in self.groups.values()
            if (group.spec.group, group.spec.topic) == (spec.group, spec.topic)
        )

    def kill(self, consumer: Consumer) -> None:
        """As if its process had died: what it owns goes to others."""
        consumer.dead = True
        group = consumer.group
        lost = [entry for entry in group.owned if entry.owner is consumer]
        for entry in lost:
            group.owned.remove(entry)
            entry.owner = None
            entry.redelivered = True
            if not entry.delay:
                died = Attempt(entry.attempt, datetime.now(UTC), "ConsumerDied: its process died")
                entry.history += (died,)
                entry.attempt += 1
                entry.owner_died = True
            group.put_back(entry)
        group.changed()

    def cut(self) -> None:
        """Cuts every connection, once: calls that wait break off, and the next of the others does, too.

        Of the latter nobody knows what came of them: a message is stored all the same, and not its answer.
        """
        broken = AdapterError("the connection was cut")

        def once(call: str) -> Callable[[Any], None]:
            def fail(argument: Any) -> None:
                del self.faults[call]
                if call == "publish":
                    for message in argument:
                        self.store(message)
                raise broken

            return fail

        self.faults |= {call: once(call) for call in ("publish", "settle", "backlog", "backlogs")}
        for group in self.groups.values():
            group.cut(broken)

    def due(self) -> None:
        """Makes everything that is parked due."""
        for group in self.groups.values():
            group.ready.extend(entry for _, entry in group.parked)
            group.parked.clear()
            group.changed()


class Consumer:
    """Implements `bus_core.LeasingConsumer` and `bus_core.YieldingConsumer`."""

    def __init__(self, server: Server, group: Group, longest_hold: float) -> None:
        self.server = server
        self.group = group
        self.longest_hold = longest_hold
        self.stopped = self.closed = self.dead = False
        self.in_doubt = False
        self.asked = False  # whether anybody stands by

    async def confirm(self, receipts: Sequence[Entry]) -> Sequence[bool]:
        answer = await self.server.fault("confirm", receipts)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        self.in_doubt = False
        return [entry.owner is self for entry in receipts]

    async def has_standby(self) -> bool:
        self.asked = True
        members = (each for each in self.server.consumers if each.group is self.group and each is not self)
        return any(not each.closed and not each.dead for each in members)

    async def receive(self, limit: int) -> Sequence[Received]:
        answer = await self.server.fault("receive", limit)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        while not self.stopped and (self.dead or not self.group.ready or not self._is_active()):
            await self.group.change()
        if self.stopped and self.group.spec.mode != "broadcast":  # what cannot be given back is handed out
            return []
        entries = [self.group.ready.popleft() for _ in range(min(limit, len(self.group.ready)))]
        for entry in entries:
            entry.owner = self
        self.group.owned += entries
        return [
            Received(
                message=entry.message,
                receipt=entry,
                published_at=entry.stored_at,
                attempt=entry.attempt,
                redelivered=entry.redelivered,
                owner_died=entry.owner_died,
                fault=entry.fault,
                history=entry.history,
                waited=entry.waited,
                delay=entry.delay,
            )
            for entry in entries
        ]

    def _is_active(self) -> bool:
        """True when it may receive: of an ordered group one consumer does, and the others stand by."""
        if not self.group.spec.ordered:
            return True
        members = (each for each in self.server.consumers if each.group is self.group)
        return next((each for each in members if not each.closed and not each.dead), None) is self

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        answer = await self.server.fault("settle", outcomes)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        return [self._settle(outcome) for outcome in outcomes]

    def _settle(self, outcome: Outcome) -> BusError | None:
        entry: Entry = outcome.receipt
        if entry.owner is not self:
            return LeaseLost("somebody else owns it")
        if outcome.action in ("hold", "retry", "release"):
            entry.attempt, entry.history = outcome.attempt, outcome.history
            entry.waited = outcome.waited
            entry.delay = 0.0 if outcome.action == "retry" else outcome.delay
        if outcome.action == "hold":
            return None
        self.group.owned.remove(entry)
        entry.owner, entry.owner_died = None, False
        if outcome.action == "retry":
            entry.redelivered = True
            self.group.parked.append((outcome.delay, entry))
            if self.server.hands_on:
                asyncio.get_running_loop().call_later(outcome.delay, self.server.due)
        elif outcome.action == "release":
            entry.redelivered = True  # for all that the server knows a handler had begun
            self.group.put_back(entry)
        elif outcome.letter is not None:
            self.server.letters[outcome.letter.id] = (outcome.letter, self.group, entry)
        self.group.changed()
        return None

    def stop(self) -> None:
        self.stopped = True
        self.group.changed()

    async def close(self) -> None:
        self.closed = True
        if self.group.spec.mode == "broadcast":
            self.server.groups = {
                key: group for key, group in self.server.groups.items() if group is not self.group
            }
        self.group.changed()


class RemoteAdapter:
    """Implements `bus_core.Adapter`, and its store of dead letters."""

    name = "remote"
    lost = 0
    degraded: str | None = None

    def __init__(self, server: Server, features: Features, longest_hold: float) -> None:
        self.server = server
        self.features = features
        self.started = False
        self._longest_hold = longest_hold

    @property
    def dead_letters(self) -> RemoteAdapter:
        return self

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.started = False

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        answer = await self.server.fault("publish", messages)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        for message in messages:
            self.server.store(message)
        return [None for _ in messages]

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        await self.server.fault("open", spec)
        alone = spec.mode == "broadcast"
        key = f"{spec.group} {spec.topic}" + (f" {len(self.server.consumers)}" if alone else "")
        group = self.server.groups.get(key)
        if group is None:
            group = self.server.groups[key] = Group(spec)
            if self.features.replay and not alone and spec.start != "latest":
                group.ready.extend(
                    Entry(message, datetime.now(UTC))
                    for message in self.server.log
                    if group.pattern.matches(message.topic)
                )
        consumer = Consumer(self.server, group, math.inf if spec.ordered or alone else self._longest_hold)
        self.server.consumers.append(consumer)
        return consumer

    async def backlog(self, spec: SubscriptionSpec) -> int:
        await self.server.fault("backlog", spec)
        return self.server.backlog(spec)

    # --- dead letters -------------------------------------------------------------------------------------

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        return await self.page(where, None, limit)

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        if after is not None and len(after) != len(str(uuid4())):
            raise ValueError(f"{after!r} is no cursor")
        selected = [letter for letter, _, _ in self.server.letters.values() if where.selects(letter)]
        behind = [letter for letter in selected if after is None or letter.id > after]
        return DeadLetterPage(behind[:limit], behind[limit - 1].id if len(behind) > limit else None)

    async def count(self, where: DeadLetterFilter) -> int:
        return sum(where.selects(letter) for letter, _, _ in self.server.letters.values())

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        return tally_of(await self.list(where, 2**31))

    async def get(self, letter_id: str) -> DeadLetter:
        try:
            return self.server.letters[letter_id][0]
        except KeyError:
            raise DeadLetterNotFound(letter_id) from None

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        found = [
            self.server.letters[each] for each in dict.fromkeys(letter_ids) if each in self.server.letters
        ]
        for letter, group, _ in found:
            if group not in self.server.groups.values():
                raise UnknownSubscription(f"no subscription {letter.subscription!r}")
        for letter, group, entry in found:
            del self.server.letters[letter.id]
            entry.attempt, entry.history, entry.redelivered = 1, letter.attempts, True
            entry.waited = 0.0
            group.ready.append(entry)
            group.changed()
        return len(found)

    async def purge(self, where: DeadLetterFilter) -> int:
        selected = [letter.id for letter in await self.list(where, 2**31)]
        for letter_id in selected:
            del self.server.letters[letter_id]
        return len(selected)


class CountingRemoteAdapter(RemoteAdapter):
    """Implements `bus_core.CountingAdapter` besides."""

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        await self.server.fault("backlogs", specs)
        return [self.server.backlog(spec) for spec in specs]


ALL = Features(durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True)


def remote_plugin(
    server: Server,
    features: Features = ALL,
    longest_hold: float = 5.0,
    *,
    adapter: type[RemoteAdapter] = RemoteAdapter,
) -> object:
    """A plugin that offers an adapter to the server."""
    return adapter_plugin(adapter(server, features, longest_hold))


def make_remote_bus(
    server: Server,
    clock: Clock | None = None,
    *,
    features: Features = ALL,
    longest_hold: float = 5.0,
    adapter: type[RemoteAdapter] = RemoteAdapter,
    plugins: Iterable[object] = (),
    **settings: Any,
) -> Bus:
    """A bus on the server, not started; ``settings`` are keys of ``bus``."""
    config = {"app": {"name": "tests"}, "bus": {"adapter": "remote", **settings}}
    offered = [remote_plugin(server, features, longest_hold, adapter=adapter), *plugins]
    return open_bus(config, plugins=offered, installed=False, clock=clock)


def refuse_events(server: Server, refused: Collection[str]) -> None:
    """Lets a server refuse events for good, by their ids, and store the others."""

    def publish(messages: Sequence[Message]) -> Sequence[PublishError | None]:
        results: list[PublishError | None] = []
        for message in messages:
            if message.id in refused:
                results.append(PublishFailed("too large"))
            else:
                server.store(message)
                results.append(None)
        return results

    server.faults["publish"] = publish


@asynccontextmanager
async def running_remote_bus(
    server: Server, clock: Clock | None = None, **options: Any
) -> AsyncIterator[Bus]:
    """A started bus on the server, closed at the end without waiting for what it holds."""
    bus = make_remote_bus(server, clock, **options)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close(0 if clock is not None else 5)

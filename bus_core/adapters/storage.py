"""A base for adapters over a storage that can be asked and does not call: a database, a directory of files.

The protocols ``Adapter``, ``Consumer`` and ``DeadLetterStore`` are kept here, over records: a record is a
text, and belongs to an owner until a time. What is left to an author is to store them. Nothing of the bus
needs this module; import it from here.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import UTC, datetime
from random import randrange
from typing import Any, TypeVar
from uuid import UUID, uuid4

import attrs

from bus_core.abc import Features, SubscriptionSpec
from bus_core.adapters.records import DEAD, NOBODY, Claim, Record, State, matches
from bus_core.errors import (
    AdapterError,
    BusError,
    ConsumerDied,
    DeadLetterNotFound,
    LeaseLost,
    PublishError,
    PublishFailed,
)
from bus_core.events.messages import (
    Attempt,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    Message,
    Outcome,
    Received,
    with_attempt,
)
from bus_core.runtime.clock import lease_clock

__all__ = ["DEAD", "NOBODY", "Claim", "Record", "StorageAdapter", "matches"]

T = TypeVar("T")

_LONGEST_WAIT = 2.0
"""Seconds of real time after which ``receive`` returns although there is nothing."""

_PAUSES = (0.005, 0.1)
"""Seconds of real time between two looks for what is due: after one that found something, and at most."""

_SHARE = 10
"""How many times as long as a look took it rests at least, so that looks leave time for the rest."""


_EPOCH = time.time() - lease_clock()


def record_time() -> float:
    """Seconds since the epoch by a clock that cannot be set: ``Record.due`` is compared with it.

    It begins at the time of day of this process's start. Setting the clock of the machine neither ends nor
    prolongs what the process owns.
    """
    return _EPOCH + lease_clock()


class StorageAdapter(ABC):
    """Implements ``Adapter``, ``CountingAdapter`` and ``DeadLetterStore``. A subclass has a ``name`` and
    ``features``, and defines the methods that store records.

    They are called on the event loop of the bus, each within a ``transaction``, except for ``open`` and
    ``shut``. What a transaction did stays done as ``features`` promise.

    Claim neither ``broadcast`` nor ``ordered``: leases decide here who gets a message.
    """

    name: str
    features: Features

    lease: float = 30.0
    """Seconds after which what a process owns comes free, when it has died or hangs."""

    lost = 0

    # --- to be defined ------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self) -> None:
        """Gets ready. ``shut`` follows in any case, also when this raised."""

    @abstractmethod
    async def shut(self) -> None:
        """Gives back what ``open`` took."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object] | AbstractAsyncContextManager[object]:
        """Surrounds calls of the methods below: all of them are done, or none where something is raised.

        Synchronous or asynchronous. The base enters one when it has left the one before.
        """

    @abstractmethod
    async def add(self, topic: str, text: str) -> None:
        """Adds a record to every subscription whose pattern ``matches`` the topic.

        It is kept for later subscriptions, too, where ``features`` have ``replay``.
        """

    @abstractmethod
    async def subscribe(self, subscription: str, pattern: str, replay: bool) -> None:
        """From now on the subscription gets records. Nothing is done when it exists already.

        Where ``replay`` is true it gets everything that was added before, too, in order.
        """

    @abstractmethod
    async def claim(
        self, subscription: str, owner: str, now: float, until: float, limit: int
    ) -> Sequence[Claim]:
        """Gives the first records that are due at ``now`` to the owner, due ``until``; in order of adding."""

    @abstractmethod
    async def renew(self, subscription: str, owner: str, until: float) -> None:
        """Makes everything that the owner owns of the subscription due at ``until``."""

    @abstractmethod
    async def change(self, key: Any, owner: str, record: Record | None) -> bool:
        """Replaces a record, or deletes it for None, if the owner owns it still; tells whether he did."""

    @abstractmethod
    async def pending(self) -> Sequence[tuple[str, int, float]]:
        """For each subscription how many records it has that are not ``DEAD``, and when the first is due.

        Subscriptions without any are left out.
        """

    @abstractmethod
    async def dead(self) -> Sequence[tuple[Any, str]]:
        """The key and the text of every record that is ``DEAD``."""

    # --- Adapter ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._waiting: dict[str, StorageConsumer] = {}
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._problems: dict[object, str] = {}
        try:
            with self.translated("be opened"):
                await self.open()
        except BaseException:
            with suppress(Exception):  # there may be nothing to give back
                await self.shut()
            raise
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.wait({self._watching})
        with self.translated("be closed"):
            await self.shut()

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        results = await _together_or_apart(messages, self._add_all)
        if None in results:
            self._news.set()
        return [None if each is None else _failed(each) for each in results]

    async def _add_all(self, messages: Sequence[Message]) -> Sequence[None]:
        now = datetime.now(UTC)
        async with self.in_transaction("add messages"):
            for each in messages:
                await self.add(each.topic, State(each, now).text())
        return [None for _ in messages]

    async def open_consumer(self, spec: SubscriptionSpec) -> StorageConsumer:
        async with self.in_transaction("add a subscription"):
            await self.subscribe(_id(spec), spec.topic, self.features.replay and spec.start != "latest")
        return StorageConsumer(self, _id(spec), self._waiting)

    async def backlog(self, spec: SubscriptionSpec) -> int:
        return (await self.backlogs([spec]))[0]

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        async with self.in_transaction("count records"):
            counts = {name: count for name, count, _ in await self.pending()}
        return [counts.get(_id(spec), 0) for spec in specs]

    async def _watch(self) -> None:
        """Looks again and again for what is due, for all consumers that wait for something."""
        shortest, longest = _PAUSES
        pause = shortest
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
                    pause = shortest
            self._news.clear()
            began = time.monotonic()
            found = False
            try:
                async with self.in_transaction("be read"):
                    pending = await self.pending() if self._waiting else ()
                self.report(self._watch, None)
            except BusError as error:
                pending = ()
                cause = error.__cause__ or error
                self.report(self._watch, f"its storage cannot be read: {type(cause).__name__}")
            now = record_time()
            for subscription, _, due in pending:
                consumer = self._waiting.get(subscription)
                if consumer is not None and due <= now:
                    found = True
                    consumer.look()
            pause = shortest if found else min(pause * 2, longest)
            await asyncio.sleep(_SHARE * (time.monotonic() - began))

    @property
    def degraded(self) -> str | None:
        """The problems of the moment: of each part its own, so that no part clears another's."""
        return "; ".join(dict.fromkeys(self._problems.values())) or None

    def report(self, part: object, problem: str | None) -> None:
        """Notes what a part cannot do at the moment; None when it can again, or has ended."""
        if problem is None:
            self._problems.pop(part, None)
        else:
            self._problems[part] = problem

    @asynccontextmanager
    async def in_transaction(self, what: str) -> AsyncIterator[None]:
        """A block in a transaction of its own. Raises ``AdapterError`` for what the storage raises.

        Blocks wait for each other: those of an asynchronous storage would run into one transaction.
        """
        with self.translated(what):
            async with self._turn, AsyncExitStack() as stack:
                transaction = self.transaction()
                if isinstance(transaction, AbstractAsyncContextManager):
                    await stack.enter_async_context(transaction)
                else:
                    stack.enter_context(transaction)
                yield

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Makes an ``AdapterError`` of what the storage raises."""
        try:
            yield
        except BusError:
            raise
        except Exception as error:
            kind = type(error).__name__
            raise AdapterError(f"the storage of {self.name!r} cannot {what}: {kind}: {error}") from error

    # --- DeadLetterStore ----------------------------------------------------------------------------------

    @property
    def dead_letters(self) -> StorageAdapter:
        return self

    async def _letters(self) -> dict[str, tuple[Any, State, DeadLetter]]:
        """The dead letters by their id, the oldest first: their ids sort by time."""
        found = [(key, State.of(text)) for key, text in await self.dead()]
        letters = [(key, state, state.letter) for key, state in found if state.letter is not None]
        return {letter.id: (key, state, letter) for key, state, letter in sorted(letters, key=_letter_id)}

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        return await self.page(where, None, limit)

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        letters = await self._selected(where)
        if after is not None:
            behind = _cursor(after)
            letters = [letter for letter in letters if letter.id > behind]
        more = len(letters) > limit
        return DeadLetterPage(letters[:limit], letters[limit - 1].id if more else None)

    async def count(self, where: DeadLetterFilter) -> int:
        return len(await self._selected(where))

    async def _selected(self, where: DeadLetterFilter) -> Sequence[DeadLetter]:
        async with self.in_transaction("list dead letters"):
            letters = await self._letters()
        return [letter for _, _, letter in letters.values() if where.selects(letter)]

    async def get(self, letter_id: str) -> DeadLetter:
        async with self.in_transaction("find a dead letter"):
            found = (await self._letters()).get(letter_id)
        if found is None:
            raise DeadLetterNotFound(letter_id)
        return found[2]

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        moved = 0
        async with self.in_transaction("redrive dead letters"):
            letters = await self._letters()
            for key, state, letter in (letters[each] for each in letter_ids if each in letters):
                now = datetime.now(UTC)
                again = attrs.evolve(state, attempt=1, history=letter.attempts, letter=None, redriven_at=now)
                moved += await self.change(key, DEAD, Record(again.text()))
        return moved

    async def purge(self, where: DeadLetterFilter) -> int:
        deleted = 0
        async with self.in_transaction("purge dead letters"):
            for key, _, letter in (await self._letters()).values():
                if where.selects(letter):
                    deleted += await self.change(key, DEAD, None)
        return deleted


class StorageConsumer:
    """Implements ``Consumer``. It has a lease of its own, which ends with it."""

    def __init__(
        self, adapter: StorageAdapter, subscription: str, waiting: dict[str, StorageConsumer]
    ) -> None:
        self.longest_hold = adapter.lease / 3
        self._adapter = adapter
        self._subscription = subscription
        self._waiting = waiting
        self._owner = uuid4().hex
        self._due = asyncio.Event()
        self._stopped = False
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        adapter = self._adapter
        while True:
            await asyncio.sleep(adapter.lease / 3)
            try:
                async with adapter.in_transaction("renew leases"):
                    await adapter.renew(self._subscription, self._owner, self._until)
                adapter.report(self, None)
            except BusError as error:
                cause = error.__cause__ or error
                adapter.report(self, f"its leases cannot be renewed: {type(cause).__name__}")

    @property
    def _until(self) -> float:
        return record_time() + self._adapter.lease

    def look(self) -> None:
        """There may be something to receive."""
        self._due.set()

    async def receive(self, limit: int) -> Sequence[Received]:
        self._due.clear()
        received = await self._claim(limit)
        if not received and not self._stopped:
            self._waiting[self._subscription] = self
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT):
                    await self._due.wait()
            del self._waiting[self._subscription]
            received = await self._claim(limit)
        return received

    async def _claim(self, limit: int) -> Sequence[Received]:
        if self._stopped:
            return []
        adapter = self._adapter
        async with adapter.in_transaction("claim records"):
            claimed = await adapter.claim(self._subscription, self._owner, record_time(), self._until, limit)
            return [await self._received(*each) for each in claimed]

    async def _received(self, key: Any, text: str, lapsed: bool) -> Received:
        state = State.of(text)
        if lapsed:
            died = Attempt(state.attempt, datetime.now(UTC), f"{ConsumerDied.__name__}: its lease ended")
            history = with_attempt(state.history, died)
            state = attrs.evolve(state, attempt=state.attempt + 1, history=history, redelivered=True)
            await self._adapter.change(key, self._owner, Record(state.text(), self._owner, self._until))
        return Received(
            message=state.message,
            receipt=(key, state),
            published_at=state.published_at,
            attempt=state.attempt,
            redelivered=state.redelivered,
            owner_died=bool(lapsed),
            history=state.history,
            redriven_at=state.redriven_at,
        )

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        return await _together_or_apart(outcomes, self._settle_all)

    async def _settle_all(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        lost = LeaseLost("somebody else owns the message, or it was settled before")
        async with self._adapter.in_transaction("settle"):
            return [None if await self._settle(each) else lost for each in outcomes]

    async def _settle(self, outcome: Outcome) -> bool:
        key, state = outcome.receipt
        record: Record | None = None
        if outcome.action == "dead_letter":
            dead = attrs.evolve(state, redelivered=True, letter=outcome.letter)
            record = Record(dead.text(), DEAD, math.inf)
        elif outcome.action != "ack":
            again = attrs.evolve(state, attempt=outcome.attempt, history=outcome.history, redelivered=True)
            held = outcome.action == "hold"
            owner, due = (self._owner, self._until) if held else (NOBODY, record_time() + outcome.delay)
            record = Record(again.text(), owner, due)
        return await self._adapter.change(key, self._owner, record)

    def stop(self) -> None:
        self._stopped = True
        self._due.set()

    async def close(self) -> None:
        self._renewing.cancel()
        await asyncio.wait({self._renewing})
        self._adapter.report(self, None)


async def _together_or_apart(
    items: Sequence[T], handle: Callable[[Sequence[T]], Awaitable[Sequence[BusError | None]]]
) -> Sequence[BusError | None]:
    """What ``handle`` tells of items in one transaction or, when that fails, of each in one of its own.

    The storage may refuse one of them, such as a record that is too large for it. As it may refuse all, the
    second that fails is the last that is tried. It begins anywhere, so that each gets its turn.
    """
    try:
        return await handle(items)
    except BusError as error:
        results: list[BusError | None] = [error for _ in items]
    if len(items) < 2:
        return results
    failed = 0
    first = randrange(len(items))
    for at in (*range(first, len(items)), *range(first)):
        try:
            (results[at],) = await handle([items[at]])
        except BusError as fault:
            results[at] = fault
            failed += 1
            if failed == 2:
                break
    return results


def _failed(error: BusError) -> PublishFailed:
    failure = PublishFailed(str(error), transient=True)
    failure.__cause__ = error
    return failure


def _id(spec: SubscriptionSpec) -> str:
    return f"{spec.group} {spec.topic}"


def _cursor(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"this is no cursor of these dead letters: {text!r}") from None


def _letter_id(found: tuple[Any, State, DeadLetter]) -> str:
    return found[2].id

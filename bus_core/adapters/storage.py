"""A base for adapters over a storage that must be polled: a database, a directory of files.

It implements the protocols ``Adapter``, ``Consumer`` and ``DeadLetterStore`` over records. A record is a text
with an owner or without. The author of an adapter only stores records. The bus does not need this module.
Plugins import it from ``bus_core.adapters``.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import attrs

from bus_core.abc import Features, SubscriptionSpec
from bus_core.adapters.batches import together_or_apart
from bus_core.adapters.leases import Heartbeats, name_owner
from bus_core.adapters.records import DEAD, NOBODY, Claim, Pending, Record, RecordState, matches, with_death
from bus_core.errors import (
    AdapterError,
    BusError,
    DeadLetterNotFound,
    LeaseLost,
    PublishError,
    PublishFailed,
)
from bus_core.events.messages import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterTally,
    Message,
    Outcome,
    Received,
    tally_of,
)
from bus_core.runtime.background_task import BackgroundTask
from bus_core.runtime.clock import lease_clock
from bus_core.runtime.error_text import place_of
from bus_core.runtime.failures import Trouble, fault_of

__all__ = ["DEAD", "NOBODY", "Claim", "Pending", "Record", "StorageAdapter", "matches"]

_LONGEST_WAIT = 2.0
"""Seconds of real time after which ``receive`` returns without messages."""

_PAUSES = (0.005, 0.1)
"""Seconds of real time between two polls: after one that found something, and at most."""

_SHARE = 10
"""The least pause between two polls, as a multiple of the duration of a poll."""

_LOOKS = 8
"""The number of looks at the owners within a lease, also while nobody waits for anything."""

_MOST_DEAD = 100
"""The most dead owners that one claim names; the others follow when these have nothing left."""

_EPOCH = time.time() - lease_clock()


def record_time() -> float:
    """Seconds since the epoch by a clock that cannot be set, for ``Record.due``.

    It starts from the time of day at the start of the process. It decides when a delay is over, and nothing
    about ownership, because other processes may have started from another time of day.
    """
    return _EPOCH + lease_clock()


class StorageAdapter(ABC):
    """Implements ``Adapter``, ``CountingAdapter`` and ``DeadLetterStore``. A subclass has a ``name`` and
    ``features``, and defines the methods that store records.

    They are called on the event loop of the bus, each within a ``transaction``, except for ``open``, ``shut``
    and ``beat``. What a transaction did stays done as ``features`` promise.

    Claim neither ``broadcast`` nor ``ordered``: leases decide here who gets a message.

    An owner is dead when its heartbeats were not counted up for its lease, by the clock of whoever looks.
    No time of day decides that.
    """

    name: str
    features: Features

    lease: float = 30.0
    """Seconds after which others may claim the messages of a process that has died or hangs."""

    lost = 0

    # --- to be defined ------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self) -> None:
        """Opens the storage. ``shut`` follows in any case, also after an error."""

    @abstractmethod
    async def shut(self) -> None:
        """Releases the resources of ``open``."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object] | AbstractAsyncContextManager[object]:
        """Surrounds calls of the methods below. An error undoes all of them.

        Synchronous or asynchronous. The base enters one block at a time.
        """

    @abstractmethod
    async def add(self, topic: str, text: str) -> None:
        """Adds a record to every subscription whose pattern ``matches`` the topic.

        Where ``features`` have ``replay``, it also keeps the record for later subscriptions.
        """

    @abstractmethod
    async def subscribe(self, subscription: str, pattern: str, replay: bool) -> None:
        """Creates a subscription, which gets records from now on; no-op when it exists.

        Where ``replay`` is true, it also gets everything that was added before, in order.
        """

    @abstractmethod
    async def claim(
        self, subscription: str, owner: str, now: float, limit: int, dead: Collection[str]
    ) -> Sequence[Claim]:
        """Gives the owner the first records that it may have, in the order in which they were added.

        It may have the records of ``NOBODY`` that are due at ``now``, and all of the ``dead`` owners.
        """

    @abstractmethod
    async def change(self, key: Any, owner: str, record: Record | None) -> bool:
        """Replaces a record, or deletes it for None, if the owner still owns it. Returns True if it does."""

    @abstractmethod
    async def pending(self) -> Sequence[Pending]:
        """For each subscription and owner, including ``NOBODY``, the number of records that are not ``DEAD``.

        Also the time when the first of them is due.
        """

    @abstractmethod
    async def dead(self) -> Sequence[tuple[Any, str]]:
        """The key and the text of every record that is ``DEAD``."""

    @abstractmethod
    def beat(self, owners: Sequence[str], gone: Sequence[str]) -> Iterable[tuple[str, int]]:
        """Increments the heartbeats of some owners, deletes those of others, and returns all heartbeats.

        It is called in a separate thread, never twice at once, so it needs its own connection and a time
        limit. A new owner begins with any number.
        """

    # --- Adapter ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._waiting: dict[StorageConsumer, None] = {}
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self.heartbeats = Heartbeats(self.beat, name=self.name, lease=self.lease)
        self._reading = Trouble(f"the storage of {self.name!r}")
        self._dead: dict[str, list[str]] = {}  # owners, by their subscription
        self._unreadable = 0  # dead letters
        self._odd = 0  # rows of ``pending``
        try:
            with self.translated("be opened"):
                await self.open()
            self.heartbeats.start()
            await self.heartbeats.renewed()
        except BaseException:
            await self.heartbeats.close()
            with suppress(Exception):  # there may be nothing to release
                await self.shut()
            raise
        self._watching = BackgroundTask(self._watch, f"promenade-{self.name}-watch")
        self._watching.start()

    async def close(self) -> None:
        await self._watching.end()
        await self.heartbeats.close()
        with self.translated("be closed"):
            await self.shut()

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        results = await together_or_apart(messages, self._add_all)
        if None in results:
            self._news.set()
        return [None if each is None else _failed(each) for each in results]

    async def _add_all(self, messages: Sequence[Message]) -> Sequence[None]:
        now = datetime.now(UTC)
        async with self.in_transaction("add messages"):
            for each in messages:
                await self.add(each.topic, RecordState(each, now).text())
        return [None for _ in messages]

    async def open_consumer(self, spec: SubscriptionSpec) -> StorageConsumer:
        async with self.in_transaction("add a subscription"):
            await self.subscribe(_id(spec), spec.topic, self.features.replay and spec.start != "latest")
        return StorageConsumer(self, spec, self._waiting)

    async def backlog(self, spec: SubscriptionSpec) -> int:
        return (await self.backlogs([spec]))[0]

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        async with self.in_transaction("count records"):
            found = await self.pending()
        counts = Counter[str]()
        for subscription, _, count, *_ in found:
            counts[subscription] += count
        return [counts[_id(spec)] for spec in specs]

    def dead_of(self, subscription: str) -> Sequence[str]:
        """Owners of a subscription without a heartbeat for their lease, as far as this process saw."""
        return self._dead.get(subscription, ())[:_MOST_DEAD]

    async def _watch(self) -> None:
        """Polls repeatedly: for records that are due, for all waiting consumers, and for owners."""
        shortest, longest = _PAUSES
        pause = shortest
        looked_at = -math.inf
        while True:
            between = self.lease / _LOOKS
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, between)):
                    await self._news.wait()
                    pause = shortest
            self._news.clear()
            began = time.monotonic()
            woken = 0
            if self._waiting or began - looked_at >= between:
                looked_at = began
                due: set[str] = set()
                fault = await fault_of(self._look(due))
                if fault is None:
                    self._reading.over()
                else:
                    self._reading.failed("be read", fault.__cause__ or fault)
                for consumer in self._waiting:
                    if consumer.subscription in due:
                        consumer.look()
                        woken += 1
            pause = shortest if woken else min(pause * 2, longest)
            await asyncio.sleep(min(between, _SHARE * (time.monotonic() - began)))

    async def _look(self, due: set[str]) -> None:
        """Reads the owners, and adds the subscriptions that have something to claim."""
        async with self.in_transaction("be read"):
            pending = await self.pending()
        sound = [each for each in pending if _is_sound(each)]
        self._odd = len(pending) - len(sound)
        self.heartbeats.look_after(owner for _, owner, *_ in sound if owner != NOBODY)
        dead, now = self.heartbeats.dead, record_time()
        self._dead = {}
        for subscription, owner, _, first in sound:
            if owner in dead:
                self._dead.setdefault(subscription, []).append(owner)
            if owner in dead or (owner == NOBODY and first <= now):
                due.add(subscription)

    @property
    def degraded(self) -> str | None:
        """The current problems, one for each part, so that no part clears the problem of another."""
        parts = (self._reading, self.heartbeats.trouble)
        problems = [trouble.text for trouble in parts if trouble.text is not None]
        if self._unreadable:
            problems.append(
                f"{self._unreadable} dead letters in the storage of {self.name!r} are left out: they are not "
                "what the bus has written"
            )
        if self._odd:
            problems.append(
                f"records in the storage of {self.name!r} are passed over: when they are due is no number"
            )
        return "; ".join(dict.fromkeys(problems)) or None

    @asynccontextmanager
    async def in_transaction(self, what: str) -> AsyncIterator[None]:
        """A block in its own transaction. Raises ``AdapterError`` for errors of the storage.

        Blocks wait for each other, because those of an asynchronous storage would mix in one transaction.
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
        """Makes an ``AdapterError`` of an error of the storage.

        It names the class and the place, and keeps the cause. It does not repeat the text of a driver, which
        may be a statement with all of its values, or an address with its password.
        """
        try:
            yield
        except BusError:
            raise
        except Exception as error:
            kind = type(error).__name__
            raise AdapterError(
                f"the storage of {self.name!r} cannot {what}: {kind} at {place_of(error)}"
            ) from error

    # --- DeadLetterStore ----------------------------------------------------------------------------------

    @property
    def dead_letters(self) -> StorageAdapter:
        return self

    async def _letters(self) -> dict[str, tuple[Any, RecordState, DeadLetter]]:
        """The dead letters by their ids, the oldest first, because ids sort by time."""
        letters: list[tuple[Any, RecordState, DeadLetter]] = []
        rows = await self.dead()
        for key, text in rows:
            state = _state_of(text)
            if state is not None and state.letter is not None:
                letters.append((key, state, state.letter))
        self._unreadable = len(rows) - len(letters)
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

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        return tally_of(await self._selected(where))

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
                again = attrs.evolve(state, attempt=1, history=letter.attempts, letter=None, waited=0.0)
                moved += await self.change(key, DEAD, Record(again.text()))
        return moved

    async def purge(self, where: DeadLetterFilter) -> int:
        deleted = 0
        async with self.in_transaction("purge dead letters"):
            for key, _, letter in (await self._letters()).values():
                if where.selects(letter):
                    deleted += await self.change(key, DEAD, None)
        return deleted


@attrs.define(eq=False)
class _Owned:
    """The receipt of an owned record: its key, and the content of its text."""

    key: Any
    state: RecordState


class StorageConsumer:
    """Implements ``Consumer`` and ``LeasingConsumer``. Each consumer has its own lease."""

    def __init__(
        self, adapter: StorageAdapter, spec: SubscriptionSpec, waiting: dict[StorageConsumer, None]
    ) -> None:
        self.longest_hold = adapter.lease / 3
        self.subscription = _id(spec)
        self._adapter = adapter
        self._topic = spec.topic
        self._waiting = waiting
        self._owner = name_owner(adapter.lease)
        self._session = adapter.heartbeats.session
        self._due = asyncio.Event()
        self._stopped = False
        adapter.heartbeats.add(self._owner)

    @property
    def in_doubt(self) -> bool:
        """True when others may have claimed its messages; see ``bus_core.LeasingConsumer``."""
        return not self._adapter.heartbeats.is_sure(self._session)

    async def confirm(self, receipts: Sequence[_Owned]) -> Sequence[bool]:
        """Renews the lease. Returns for each message True if this consumer still owns it."""
        adapter = self._adapter
        await adapter.heartbeats.renewed()
        session = adapter.heartbeats.session
        async with adapter.in_transaction("renew leases"):
            owned = [
                await adapter.change(each.key, self._owner, Record(each.state.text(), self._owner))
                for each in receipts
            ]
        self._session = session
        return owned

    def look(self) -> None:
        """Wakes the consumer: there may be something to receive."""
        self._due.set()

    async def receive(self, limit: int) -> Sequence[Received]:
        self._due.clear()
        received = await self._claim(limit)
        if not received and not self._stopped:
            self._waiting[self] = None
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LONGEST_WAIT):
                        await self._due.wait()
            finally:
                self._waiting.pop(self, None)
            received = await self._claim(limit)
        return received

    async def _claim(self, limit: int) -> Sequence[Received]:
        if self._stopped:
            return []
        adapter = self._adapter
        dead = [owner for owner in adapter.dead_of(self.subscription) if owner != self._owner]
        async with adapter.in_transaction("claim records"):
            now = record_time()
            claimed = await adapter.claim(self.subscription, self._owner, now, limit, dead)
            return [await self._received(*each) for each in claimed]

    async def _received(self, key: Any, text: str, lapsed: bool) -> Received:
        state = _state_of(text)
        if state is None:
            return self._unreadable(key, text)
        if lapsed:
            history = with_death(state.history, state.attempt)
            state = attrs.evolve(state, attempt=state.attempt + 1, history=history, redelivered=True)
            await self._adapter.change(key, self._owner, Record(state.text(), self._owner))
        return Received(
            message=state.message,
            receipt=_Owned(key, state),
            published_at=state.published_at,
            attempt=state.attempt,
            redelivered=state.redelivered,
            owner_died=bool(lapsed),
            history=state.history,
            waited=state.waited,
        )

    def _unreadable(self, key: Any, text: object) -> Received:
        """A record that somebody else has written, or changed: a dead letter with the raw text."""
        body = str(text).encode("utf-8", "backslashreplace")
        state = RecordState(Message("", self._topic, "", body), datetime.now(UTC))
        return Received(
            message=state.message,
            receipt=_Owned(key, state),
            published_at=state.published_at,
            fault="its record is not what the bus has written",
        )

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        return await together_or_apart(outcomes, self._settle_all)

    async def _settle_all(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        lost = LeaseLost("somebody else owns the message, or it was settled before")
        async with self._adapter.in_transaction("settle"):
            return [None if await self._settle(each) else lost for each in outcomes]

    async def _settle(self, outcome: Outcome) -> bool:
        owned: _Owned = outcome.receipt
        state = owned.state
        record: Record | None = None
        if outcome.action == "dead_letter":
            dead = attrs.evolve(state, redelivered=True, letter=outcome.letter)
            record = Record(dead.text(), DEAD, math.inf)
        elif outcome.action != "ack":
            again = attrs.evolve(
                state,
                attempt=outcome.attempt,
                history=outcome.history,
                redelivered=True,
                waited=outcome.waited,
            )
            held = outcome.action == "hold"
            if held:
                owned.state = again
            owner, due = (self._owner, 0.0) if held else (NOBODY, record_time() + outcome.delay)
            record = Record(again.text(), owner, due)
        return await self._adapter.change(owned.key, self._owner, record)

    def stop(self) -> None:
        self._stopped = True
        self._due.set()

    async def close(self) -> None:
        self._adapter.heartbeats.remove(self._owner)


def _failed(error: BusError) -> PublishFailed:
    failure = PublishFailed(str(error), transient=True)
    failure.__cause__ = error
    return failure


def _is_sound(row: Sequence[Any]) -> bool:
    """True for a row that ``pending`` may return, because others may have put anything into the storage."""
    kinds = (str, str, int, int | float)
    return len(row) == len(kinds) and all(map(isinstance, row, kinds))


def _state_of(text: str) -> RecordState | None:
    """The content of a record's text; None when the bus did not write it."""
    try:
        return RecordState.of(text)
    except Exception:  # any error of a converter for a foreign text
        return None


def _id(spec: SubscriptionSpec) -> str:
    return f"{spec.group} {spec.topic}"


def _cursor(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"this is no cursor of these dead letters: {text!r}") from None


def _letter_id(found: tuple[Any, RecordState, DeadLetter]) -> str:
    return found[2].id

"""The consumer of a subscription: what the engine calls, and how it waits."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from bus_core import BusError, LeaseLost, Outcome, Received, SubscriptionSpec
from bus_core.adapters import together_or_apart
from promenade_bus_sqlite.claiming import Claim, Claims, ForgottenSubscription, Held, Owner
from promenade_bus_sqlite.settling import Settler
from promenade_bus_sqlite.subscriptions import is_there, subscribe_again

if TYPE_CHECKING:
    from promenade_bus_sqlite.services import Services

__all__ = ["SqliteConsumer"]

_LONGEST_WAIT: Final = 5.0
"""Seconds of real time after which ``receive`` returns without messages."""


class SqliteConsumer:
    """Implements ``Consumer``, ``LeasingConsumer`` and ``YieldingConsumer``.

    A broadcast subscription belongs to this instance only, and is removed from the file with its consumer.
    ``closed`` is called at the end.
    """

    def __init__(
        self,
        services: Services,
        spec: SubscriptionSpec,
        owner: Owner,
        group: str,
        closed: Callable[[SqliteConsumer], object],
    ) -> None:
        is_group = spec.mode == "group"
        self.spec = spec
        self.owner = owner
        self.longest_hold = services.options.lease / 3 if is_group else math.inf
        self._services = services
        self._closed = closed
        self._session = services.heartbeats.session
        self._claims = Claims(
            services.topics, owner, spec.topic, group, ordered=spec.ordered, lease=services.options.lease
        )
        self._settler = Settler(owner, group, spec.topic)
        self._held: set[int] = set()  # the numbers of the events that the engine has got, and not settled
        self._is_unsure = False  # True when a claim may have been stored whose answer was lost
        self._news = asyncio.Event()
        self._stopped = False
        services.heartbeats.add(owner.name)

    # --- receiving ----------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Received]:
        """Receives messages, if necessary after a few seconds; see ``bus_core.Consumer``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _LONGEST_WAIT
        self._services.worker.listen()
        try:
            while not self._stopped:
                self._news.clear()
                claim = await self._claim(limit)
                if claim.received:
                    self._held.update(each.receipt.seq for each in claim.received)
                    return claim.received
                rest = until - loop.time()
                if claim.next_due is not None:
                    rest = min(rest, claim.next_due - self._services.file.now())
                if rest > 0 and not self._stopped:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(rest):
                            await self._news.wait()
                if loop.time() >= until:
                    break
        finally:
            self._services.worker.ignore()
        return []

    async def _claim(self, limit: int) -> Claim:
        file, dead = self._services.file, self._services.heartbeats.dead
        is_unsure, held = self._is_unsure, self._held.copy()

        def peek(db: sqlite3.Connection) -> Claim | None:
            return self._claims.peek(db, file.now(), dead)

        def run(db: sqlite3.Connection) -> Claim:
            if is_unsure:
                self._claims.give_back(db, held)
            try:
                return self._claims.claim(db, limit, file.now(), dead)
            except ForgottenSubscription:
                if self.spec.mode == "group":
                    raise
            self._subscribe_again(db)
            return self._claims.claim(db, limit, file.now(), dead)

        self._is_unsure = True  # also when it is cancelled
        claim = await self._services.worker.write(run, None if is_unsure else peek)
        self._is_unsure = False
        if claim.reached is not None:
            self.owner.reached = claim.reached
        if claim.seen_at is not None:
            self.owner.seen_at = max(self.owner.seen_at, claim.seen_at)
        return claim

    def _subscribe_again(self, db: sqlite3.Connection) -> None:
        """Makes a broadcast subscription again that others have removed, because they took it for dead."""
        if self.spec.mode == "broadcast" and not is_there(db, self.owner):
            retention = self._services.options.retention
            kept_for = 0.0 if retention.max_length else min(retention.min_age, retention.unsubscribed_max_age)
            now = self._services.file.now()
            subscribe_again(db, self.owner, self.spec, self._held.copy(), now, kept_for)

    def look(self) -> None:
        """Wakes ``receive``, because there may be new events."""
        self._news.set()

    def forget(self) -> None:
        """Handles a rolled back transaction. Called in the worker's thread."""
        self._claims.forget()

    # --- settling -----------------------------------------------------------------------------------------

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Settles outcomes and returns one result for each. See ``bus_core.Consumer``."""
        results = await together_or_apart(outcomes, self._settle_all)
        for outcome, result in zip(outcomes, results, strict=True):
            if isinstance(result, LeaseLost) or (result is None and outcome.action != "hold"):
                self._held.discard(outcome.receipt.seq)
        if any(each.action in ("retry", "release") for each in outcomes):
            self._services.woken(self.owner.subscription)
        return results

    async def _settle_all(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        now = self._services.file.now()

        def run(db: sqlite3.Connection) -> Sequence[BusError | None]:
            self._subscribe_again(db)
            return self._settler.settle(db, outcomes, now)

        return await self._services.worker.write(run)

    # --- leases and turns ---------------------------------------------------------------------------------

    @property
    def in_doubt(self) -> bool:
        """True when others may have claimed its messages; see ``bus_core.LeasingConsumer``."""
        return not self._services.heartbeats.is_sure(self._session)

    async def confirm(self, receipts: Sequence[Any]) -> Sequence[bool]:
        """Renews the lease. Returns for each message True if this consumer still owns it."""
        heartbeats, me = self._services.heartbeats, self.owner
        await heartbeats.renewed()
        session = heartbeats.session
        seqs = [held.seq for held in receipts if isinstance(held, Held)]
        wanted = "SELECT 1 FROM promenade_delivery WHERE subscription = ? AND seq = ? AND owner = ?"

        def run(db: sqlite3.Connection) -> Sequence[bool]:
            self._subscribe_again(db)
            return [
                db.execute(wanted, (me.subscription, seq, me.number)).fetchone() is not None for seq in seqs
            ]

        owned = await self._services.worker.write(run)
        self._session = session
        self._held.difference_update(seq for seq, is_owned in zip(seqs, owned, strict=True) if not is_owned)
        return owned

    async def has_standby(self) -> bool:
        """True when another instance waits to become active; see ``bus_core.YieldingConsumer``."""
        if not self.spec.ordered:
            return False
        dead = self._services.heartbeats.dead

        def run(db: sqlite3.Connection) -> bool:
            others = db.execute(
                "SELECT name FROM promenade_owner WHERE subscription = ? AND id <> ?",
                (self.owner.subscription, self.owner.number),
            ).fetchall()
            return any(name not in dead for (name,) in others)

        return await self._services.worker.read(run)

    # --- its end ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Receives nothing from now on."""
        self._stopped = True
        self._news.set()

    async def close(self) -> None:
        """Yields to another instance. Its deliveries can be claimed when its lease ends."""
        me, is_broadcast = self.owner, self.spec.mode == "broadcast"

        def run(db: sqlite3.Connection) -> None:
            if is_broadcast and is_there(db, me):
                db.execute("DELETE FROM promenade_delivery WHERE subscription = ?", (me.subscription,))
                db.execute("DELETE FROM promenade_subscription WHERE id = ?", (me.subscription,))
            left = "SELECT 1 FROM promenade_delivery WHERE subscription = ? AND owner = ? LIMIT 1"
            if db.execute(left, (me.subscription, me.number)).fetchone() is None:
                db.execute("DELETE FROM promenade_owner WHERE id = ?", (me.number,))
                db.execute(
                    "UPDATE promenade_subscription SET active = 0 WHERE id = ? AND active = ?",
                    (me.subscription, me.number),
                )

        self._services.heartbeats.remove(me.name)
        self._closed(self)
        await self._services.worker.write(run)
        self._services.woken(me.subscription)

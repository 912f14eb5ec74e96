"""The consumer of a subscription: what the engine calls, and how it waits."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from bus_core import BusError, LeaseLost, Outcome, Received, SubscriptionSpec
from bus_core.adapters import NO_SESSION, together_or_apart
from promenade_bus_postgres.claiming import Claim, Claims, Held
from promenade_bus_postgres.connections import Connection
from promenade_bus_postgres.settling import Settler
from promenade_bus_postgres.subscriptions import (
    IS_MINE,
    ForgottenSubscription,
    Owner,
    find_again,
    is_known,
    remove_owner,
)

if TYPE_CHECKING:
    from promenade_bus_postgres.services import Services

__all__ = ["PostgresConsumer"]

_LONGEST_WAIT: Final = 5.0
"""Seconds of real time after which ``receive`` returns although there is nothing."""

_FIRST_LOOK: Final = 0.001
_SLOWER: Final = 1.6
"""Seconds to the next look at events that a transaction holds, and how much longer each next one waits."""

_OWNED: Final = f"""SELECT seq FROM promenade_delivery
WHERE subscription = %(key)s AND owner = %(me)s AND seq = ANY(%(seqs)s::bigint[]) AND EXISTS ({IS_MINE})"""

_STANDBY: Final = "SELECT name FROM promenade_owner WHERE subscription = %s AND id <> %s"


class PostgresConsumer:
    """Implements ``Consumer``, ``LeasingConsumer`` and ``YieldingConsumer``.

    A broadcast subscription belongs to this instance only, and is removed from the database with its
    consumer. ``closed`` is called at the end.
    """

    def __init__(
        self,
        services: Services,
        spec: SubscriptionSpec,
        owner: Owner,
        group: str,
        closed: Callable[[PostgresConsumer], object],
    ) -> None:
        self.spec = spec
        self.owner = owner
        self.longest_hold = services.options.lease / 3 if spec.mode == "group" else math.inf
        self._services = services
        self._closed = closed
        self._session = services.heartbeats.session
        self._claims = Claims(
            services.sql,
            services.topics,
            owner,
            spec.topic,
            group,
            ordered=spec.ordered,
            lease=services.options.lease,
        )
        # Claims of which the caller has not got everything yet. A thread appends them: a cancelled call of
        # ``receive`` loses nothing.
        self._claimed: deque[Claim] = deque()
        self._claiming = threading.Lock()
        self._settling = threading.Lock()  # taken after the other one, where both are
        self._group = group
        # The events that the engine has got, and not settled: their numbers, and their transactions.
        self._held: dict[int, int] = {}
        # True when the database may have deliveries of this owner that the consumer does not hold: the answer
        # of a claim was lost, or a settlement, by a failover.
        self._is_unsure = False
        self._broken = services.database.broken
        self._settler = Settler(services.sql, owner, group, spec.topic)
        self._news = asyncio.Event()
        self._next_look = 0.0  # by the clock of the loop, when there is no news before
        self._pause = _FIRST_LOOK
        self._stopped = False
        services.heartbeats.add(owner.name)

    # --- receiving ----------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Received]:
        """Receives messages, if need be after a few seconds; see ``bus_core.Consumer``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _LONGEST_WAIT
        while not self._stopped:
            rest = min(self._next_look, until) - loop.time()
            if rest > 0 and not self._news.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await self._news.wait()
                if self._stopped or (loop.time() >= until and not self._news.is_set()):
                    break
            self._news.clear()
            self._next_look = 0.0  # also when the claim fails
            claim = await self._claim(limit)
            self._next_look = loop.time() + self._rest(claim)
            if claim.received:
                return claim.received
        return self._next(limit).received if self._claimed else []

    def _rest(self, claim: Claim) -> float:
        """Seconds until the next claim, if there is no news before."""
        if claim.more:
            return 0.0
        rest = _LONGEST_WAIT if claim.wait is None else min(claim.wait, _LONGEST_WAIT)
        if not claim.is_held:
            self._pause = _FIRST_LOOK
            return rest
        pause, self._pause = self._pause, min(self._pause * _SLOWER, self._services.options.poll)
        return min(rest, pause)

    async def _claim(self, limit: int) -> Claim:
        """Claims messages, unless an earlier claim has left some. Raises ``AdapterError``."""
        heartbeats = self._services.heartbeats
        if heartbeats.session == NO_SESSION:  # others take this owner for dead, and for empty
            await heartbeats.renewed()
        if not self._claimed:
            await self._services.database.run(partial(self._claim_in_thread, limit, heartbeats.dead))
        return self._next(limit)

    def _next(self, limit: int) -> Claim:
        """At most ``limit`` messages of the first claim that is there.

        They are held before they leave their claim: a thread that looks at both misses none.
        """
        claim = self._claimed[0]
        self._held |= {each.receipt.seq: each.receipt.tx for each in claim.received[:limit]}
        if len(claim.received) > limit:
            self._claimed[0] = attrs.evolve(claim, received=claim.received[limit:])
            return Claim(claim.received[:limit], more=True)
        self._claimed.popleft()
        if self._claimed:
            claim.more = True
        return claim

    def _claim_in_thread(self, limit: int, dead: Mapping[str, int | None], connection: Connection) -> None:
        with self._claiming:
            broken = self._services.database.broken
            if self._is_unsure or broken != self._broken:
                self._is_unsure = True
                self._claims.give_back(connection, [*self._all_held()])
                self._is_unsure, self._broken = False, broken
            try:
                self._claimed.append(self._claims.claim(connection, limit, dead))
            except ForgottenSubscription:
                with self._settling:
                    self._find_again(connection)
                self._claimed.append(Claim([], more=True))
            except BaseException:
                self._is_unsure = True
                raise

    def _all_held(self) -> dict[int, int]:
        """The events that the engine has got and not settled, and those that it has still to get."""
        left = [each.receipt for claim in [*self._claimed] for each in claim.received]
        return self._held.copy() | {receipt.seq: receipt.tx for receipt in left}

    def _find_again(self, connection: Connection) -> None:
        """Takes the numbers that the subscription has now. Raises ``ForgottenSubscription``."""
        retention = self._services.options.retention
        kept_for = 0.0 if retention.max_length else min(retention.min_age, retention.unsubscribed_max_age)
        find_again(connection, self._services.sql, self.owner, self.spec, self._all_held(), kept_for)
        self._is_unsure = True  # there may be deliveries of before

    def _was_found_again(self, connection: Connection) -> bool:
        """True when the subscription had other numbers than its owner knew; now the owner knows them."""
        with self._claiming, self._settling:
            if is_known(connection, self._services.sql, self.owner, self._group, self.spec.topic):
                return False
            try:
                self._find_again(connection)
            except ForgottenSubscription:
                return False  # the next claim says so
            return True

    def look(self) -> None:
        """Wakes ``receive``, because there may be new events."""
        self._news.set()

    def free(self) -> None:
        """Wakes ``receive``, because deliveries may have come free."""
        self._claims.look_for_free()
        self._news.set()

    # --- settling -----------------------------------------------------------------------------------------

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Settles outcomes and returns one result for each. See ``bus_core.Consumer``."""
        results = await together_or_apart(outcomes, self._settle_all)
        if any(each.action in ("retry", "release") for each in outcomes):
            self._services.freed(self.owner.subscription)
        return results

    async def _settle_all(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        return await self._services.database.run(partial(self._settle_in_thread, outcomes))

    def _settle_in_thread(
        self, outcomes: Sequence[Outcome], connection: Connection
    ) -> Sequence[BusError | None]:
        numbers = self.owner.facts()
        with self._settling:
            results = self._settler.settle(connection, outcomes)
            self._forget_settled(outcomes, results)
        if any(results):
            if self._was_found_again(connection) or self.owner.facts() != numbers:
                with self._settling:
                    again = self._settler.settle(connection, outcomes)
                results = [first and second for first, second in zip(results, again, strict=True)]
                self._forget_settled(outcomes, results)
            for outcome, result in zip(outcomes, results, strict=True):
                if isinstance(result, LeaseLost):
                    self._held.pop(outcome.receipt.seq, None)
        return results

    def _forget_settled(self, outcomes: Sequence[Outcome], results: Sequence[BusError | None]) -> None:
        """Forgets the events that are settled, and not those that the engine goes on holding."""
        for outcome, result in zip(outcomes, results, strict=True):
            if result is None and outcome.action != "hold":
                self._held.pop(outcome.receipt.seq, None)

    # --- leases and turns ---------------------------------------------------------------------------------

    @property
    def in_doubt(self) -> bool:
        """True when others may have claimed its messages; see ``bus_core.LeasingConsumer``."""
        return not self._services.heartbeats.is_sure(self._session)

    async def confirm(self, receipts: Sequence[Any]) -> Sequence[bool]:
        """Renews the lease; which messages are this consumer's still."""
        services, me = self._services, self.owner
        await services.heartbeats.renewed()
        session = services.heartbeats.session
        seqs = [held.seq for held in receipts if isinstance(held, Held)]

        def owned_of(connection: Connection) -> tuple[set[int], dict[str, Any]]:
            with self._settling:
                numbers = me.facts()
                facts = {**numbers, "group": self._group, "pattern": self.spec.topic, "seqs": seqs}
                rows = connection.execute(services.sql(_OWNED), facts)
                return {seq for (seq,) in rows.fetchall()}, numbers

        def run(connection: Connection) -> set[int]:
            owned, numbers = owned_of(connection)
            # A claim may have found the subscription again meanwhile.
            if len(owned) < len(seqs) and (self._was_found_again(connection) or me.facts() != numbers):
                return owned_of(connection)[0]
            return owned

        owned = await services.database.run(run)
        self._session = session
        for seq in seqs:
            if seq not in owned:
                self._held.pop(seq, None)
        return [seq in owned for seq in seqs]

    async def has_standby(self) -> bool:
        """True when another instance waits for its turn; see ``bus_core.YieldingConsumer``."""
        if not self.spec.ordered:
            return False
        services, me = self._services, self.owner
        dead = services.heartbeats.dead

        def run(connection: Connection) -> bool:
            rows = connection.execute(services.sql(_STANDBY), (me.subscription, me.number))
            return any(name not in dead for (name,) in rows.fetchall())

        return await services.database.run(run)

    # --- its end ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """From now on nothing is received."""
        self._stopped = True
        self._news.set()

    async def close(self) -> None:
        """Passes its turn on. What it owns still comes free when its lease is over."""
        services, me, is_broadcast = self._services, self.owner, self.spec.mode == "broadcast"
        services.heartbeats.remove(me.name)
        self._closed(self)
        await services.database.run(
            lambda connection: remove_owner(connection, services.sql, me, is_broadcast=is_broadcast)
        )
        services.freed(me.subscription)

"""The account of a bus, kept by hand: who is owed which event, what is running, and what came of it."""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal

import attrs

from bus_core import AttemptFailure, Bus, SubscriptionState, TopicPattern
from support.buses import Happened

__all__ = ["Account", "Delivered", "Owed", "Place"]

Stage = Literal["owed", "running", "failing", "handled", "skipped", "dead"]


@attrs.define(eq=False)
class Place:
    """One accepted event in the buffer of a bus, until nobody is owed it any more.

    ``causes`` are the places of those whose handlers have led to it.
    """

    account: Account = attrs.field(repr=False)
    number: int
    left: int
    causes: set[Place] = attrs.field(factory=set, repr=False)


@attrs.define(eq=False)
class Delivered:
    """One event on its way to one subscription. ``due`` is when its next attempt may begin."""

    event: Happened
    topic: str
    key: str
    place: Place
    stage: Stage = "owed"
    attempt: int = 1
    redelivered: bool = False
    due: float = 0.0


@attrs.define(eq=False)
class Owed:
    """The events owed to one subscription. Its filter turns away one in ``skips`` events."""

    account: Account = attrs.field(repr=False)
    name: str
    pattern: TopicPattern
    ordered: bool
    concurrency: int | None
    skips: int | None
    attached: bool = True
    paused: bool = False
    running: int = 0
    deliveries: dict[int, Delivered] = attrs.field(factory=dict, repr=False)
    by_key: dict[str, deque[Delivered]] = attrs.field(factory=dict, repr=False)
    counted: Counter[str] = attrs.field(factory=Counter)

    @property
    def left(self) -> list[Delivered]:
        """The unsettled events."""
        return [each for each in self.deliveries.values() if each.stage in ("owed", "running", "failing")]

    def where(self, event: Happened) -> bool:
        """The filter. Now and then it fails."""
        delivered = self.deliveries[event.number]
        if event.number % 11 == 0 and not delivered.redelivered:
            raise ValueError("where")
        if self.skips is None or event.number % self.skips:
            return True
        self._settle(delivered, "skipped")
        return False

    def accept(self, delivered: Delivered) -> None:
        """One more event is owed, after all others of its key."""
        self.deliveries[delivered.event.number] = delivered
        self.counted["accepted"] += 1
        self.by_key.setdefault(delivered.key, deque()).append(delivered)

    def begin(self, event: Happened, *, in_thread: bool = False) -> Delivered:
        """A handler is called: once for each event that is owed, in order, and within the bound."""
        delivered = self.deliveries[event.number]
        assert delivered.stage == "owed", f"{self} is called with {delivered}"
        assert in_thread or not self.paused, f"{self} is called with {delivered}"
        if self.ordered:
            assert self.by_key[delivered.key][0] is delivered, f"{self}: {delivered} overtakes another one"
        delivered.stage = "running"
        self.running += 1
        assert self.concurrency is None or self.running <= self.concurrency, f"{self} goes beyond its bound"
        return delivered

    def end(self, delivered: Delivered, *, well: bool) -> None:
        """The handler is through. A failure may follow although it ended well: it took too long."""
        assert delivered.stage == "running", f"{self}: {delivered} ends"
        self.running -= 1
        delivered.redelivered = True
        if well:
            self._settle(delivered, "handled")
        else:
            delivered.stage = "failing"

    def failed(self, failure: AttemptFailure, now: float) -> None:
        """An attempt has failed."""
        assert isinstance(failure.event, Happened)
        delivered = self.deliveries[failure.event.number]
        assert delivered.stage in ("failing", "handled", "owed"), f"{self}: {delivered} fails"
        assert failure.attempt == delivered.attempt
        if delivered.stage == "handled":
            self.counted["handled"] -= 1
            self.account.take_back(delivered.place)
            self.by_key[delivered.key].appendleft(delivered)
        delivered.redelivered = True
        self.counted["failed"] += failure.action != "postpone"
        if failure.action == "dead_letter":
            self._settle(delivered, "dead")
            return
        delivered.stage = "owed"
        delivered.due = now + failure.delay
        delivered.attempt += failure.action == "retry"
        self.counted["retried"] += failure.action == "retry"

    def _settle(self, delivered: Delivered, stage: Stage) -> None:
        delivered.stage = stage
        self.counted[stage] += 1
        self.by_key[delivered.key].remove(delivered)
        self.account.settled(delivered.place)

    def may_begin(self, now: float) -> bool:
        """True when some event waits for nothing but a worker."""
        if self.paused or (self.concurrency is not None and self.running >= self.concurrency):
            return False
        waiting = [each for each in self.left if each.stage == "owed" and each.due <= now]
        return any(not self.ordered or self.by_key[each.key][0] is each for each in waiting)

    def check(self, state: SubscriptionState) -> None:
        """The bus counts the same."""
        names = ("handled", "skipped", "dead", "failed", "redriven")
        theirs = (state.handled, state.skipped, state.dead_lettered, state.failed_attempts, state.redriven)
        assert theirs == tuple(self.counted[name] for name in names), f"{self}: {state}"
        assert (state.running, state.paused) == (self.running, self.paused), f"{self}: {state}"
        assert state.queued + state.running + state.waiting_retries == len(self.left), f"{self}: {state}"


class Account:
    """All that was accepted on one bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.owed: list[Owed] = []
        self.published = 0
        self.unrouted = 0
        self.places: set[Place] = set()

    @property
    def is_open(self) -> bool:
        """True when the bus has not begun to close."""
        return self.bus.status == "open"

    def settled(self, place: Place) -> None:
        """A delivery has come to its end."""
        place.left -= 1
        if not place.left:
            self.places.remove(place)

    def take_back(self, place: Place) -> None:
        """It has not, after all."""
        place.left += 1
        self.places.add(place)

    def accepted(self, event: Happened, topic: str, key: str, cause: Delivered | None) -> bool:
        """An event was published just now, here or on another bus of the hub; False when nobody takes it."""
        takers = [each for each in self.owed if each.attached and each.pattern.matches(topic)]
        if takers:
            place = Place(self, event.number, len(takers))
            if cause is not None and cause.place.account is self:
                place.causes = {cause.place, *cause.place.causes}
            self.places.add(place)
            for each in takers:
                each.accept(Delivered(event, topic, key, place))
        return bool(takers)

    def redriven(self, owed: Owed, number: int) -> None:
        """A dead letter has gone back to its subscription."""
        dead = owed.deliveries[number]
        assert dead.stage == "dead"
        place = Place(self, number, 1)
        self.places.add(place)
        owed.counted["redriven"] += 1
        owed.accept(Delivered(dead.event, dead.topic, dead.key, place, redelivered=True))

    def left_of(self, before: frozenset[Place]) -> list[Place]:
        """The rest of some places, and of their consequences."""
        return [place for place in self.places if place in before or place.causes & before]

    def check_progress(self, now: float) -> None:
        """No worker rests while there is something to do."""
        running = sum(each.running for each in self.owed)
        if self.is_open and running < self.bus.config.worker_pool_size:
            forgotten = [each for each in self.owed if each.may_begin(now)]
            assert not forgotten, f"nobody begins what waits for {forgotten}"

    def check(self) -> None:
        """The bus counts the same, as long as it has not given up on anything."""
        if not self.is_open:
            return
        state = self.bus.state()
        theirs = (state.published, state.unrouted, state.unsettled, state.lost)
        assert theirs == (self.published, self.unrouted, len(self.places), 0), f"{self.places}: {state}"
        by_name = {each.name: each for each in self.owed}
        for each in state.subscriptions:
            by_name[each.name].check(each)

"""A kill between every pair of steps of a consumer: receive, effect, outcome, and its reply.

A schedule says what becomes of a few events, and at which step each of the first consumers dies. Hypothesis
makes them; many run side by side, each on a topic of its own. At the end a consumer that lives settles what
is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import attrs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bus_core import Attempt, DeadLetter, DeadLetterFilter, Outcome, Received
from bus_core.abc import Consumer
from redis_support.servers import Server
from redis_support.streams import Place, die, message, place_on, spec

Fate = Literal["ack", "dead_letter", "retry", "release"]
"""The first outcome that a handler asks for; the second time, everything is acknowledged."""

STEPS = ("received", "effect", "outcome", "reply")
"""The step that is over when a consumer dies; ``outcome`` is carried out, but not confirmed."""

SIDE_BY_SIDE = 20
_LEASE = 0.12
_PATIENCE = 30.0


@attrs.frozen
class Cut:
    """A consumer dies at its ``event``-th event, when a step of it is over."""

    event: int
    step: str


@attrs.frozen
class Schedule:
    """The outcome of each event, and the deaths of the first consumers."""

    fates: tuple[Fate, ...]
    cuts: tuple[Cut, ...]


def schedules() -> st.SearchStrategy[Schedule]:
    """All of them."""
    fates = st.lists(st.sampled_from(("ack", "dead_letter", "retry", "release")), min_size=1, max_size=3)
    cuts = st.lists(st.builds(Cut, st.integers(0, 2), st.sampled_from(STEPS)), min_size=1, max_size=2)
    return st.builds(lambda fates, cuts: Schedule(tuple(fates), tuple(cuts)), fates, cuts)


class Tally:
    """The sum of all schedules. ``hasty`` consumers have a bug: they acknowledge first."""

    def __init__(self, *, hasty: bool = False) -> None:
        self.hasty = hasty
        self.counts: Counter[str] = Counter()
        self.cut_at: Counter[str] = Counter()


class _Killed(Exception):
    """The consumer is dead from here on."""


class _Run:
    """One schedule, on a topic of its own."""

    def __init__(self, place: Place, schedule: Schedule, topic: str, tally: Tally) -> None:
        self.place = place
        self.schedule = schedule
        self.topic = topic
        self.tally = tally
        self.effects: Counter[int] = Counter()
        self.settled: set[int] = set()
        self.faults: list[str] = []

    async def run(self) -> list[str]:
        """The faults that are left."""
        sent = [message(number, self.topic) for number in range(len(self.schedule.fates))]
        self.ids = {each.id: number for number, each in enumerate(sent)}
        publisher = await self.place.adapter(lease=_LEASE)
        assert await publisher.publish(sent) == [None] * len(sent)
        for cut in (*self.schedule.cuts, None):
            await self._live(cut)
        where = DeadLetterFilter(topic=self.topic)
        letters = Counter(
            self.ids[str(each.event_id)] for each in await publisher.dead_letters.list(where, 99)
        )
        left = await publisher.backlog(spec(self.topic))
        await publisher.close()
        self._judge(letters, left)
        return self.faults

    async def _live(self, cut: Cut | None) -> None:
        """A consumer from its start to its death, or to the moment at which nothing is left."""
        adapter = await self.place.adapter(lease=_LEASE, block=0.05)
        consumer = await adapter.open_consumer(spec(self.topic))
        handled = 0
        try:
            async with asyncio.timeout(_PATIENCE):
                while await adapter.backlog(spec(self.topic)):
                    for received in await consumer.receive(1):
                        is_cut = cut is not None and handled == cut.event
                        await self._handle(consumer, received, cut if is_cut else None)
                        handled += 1
        except _Killed:
            await die(adapter)
            return
        await consumer.close()
        await adapter.close()

    async def _handle(self, consumer: Consumer, received: Received, cut: Cut | None) -> None:
        number = self.ids[received.message.id]
        if number in self.settled:
            self.faults.append(f"event {number} came again after it was settled")
        if self.tally.hasty:
            await consumer.settle([Outcome("ack", received.receipt)])
        self._maybe_die(cut, "received")
        self.effects[number] += 1
        if self.tally.hasty:
            return
        self._maybe_die(cut, "effect")
        (result,) = await consumer.settle([self._outcome(received, number)])
        self._maybe_die(cut, "outcome")
        if result is not None:
            self.faults.append(f"event {number} was not settled: {result}")
        elif self._is_last(number):
            self.settled.add(number)
        self._maybe_die(cut, "reply")

    def _maybe_die(self, cut: Cut | None, step: str) -> None:
        if cut is not None and cut.step == step:
            self.tally.cut_at[step] += 1
            raise _Killed

    def _is_last(self, number: int) -> bool:
        return self.schedule.fates[number] in ("ack", "dead_letter") or self.effects[number] > 1

    def _outcome(self, received: Received, number: int) -> Outcome:
        now = datetime.now(UTC)
        fate = self.schedule.fates[number]
        if fate == "dead_letter":
            failed = Attempt(received.attempt, now, "ValueError: no")
            letter = DeadLetter(
                id=received.message.id,
                topic=self.topic,
                subscription="listener",
                event_id=UUID(received.message.id),
                key=received.message.key,
                reason="the handler raised PermanentError",
                attempts=(failed,),
                body=received.message.body,
                dead_at=now,
            )
            return Outcome("dead_letter", received.receipt, letter=letter)
        if fate == "ack" or self.effects[number] > 1:
            return Outcome("ack", received.receipt)
        return Outcome(
            fate, received.receipt, 0.1 if fate == "retry" else 0.0, received.attempt, received.history
        )

    def _judge(self, letters: Counter[int], left: int) -> None:
        counts = self.tally.counts
        for number, fate in enumerate(self.schedule.fates):
            counts["acknowledged"] += 1
            is_handled = self.effects[number] > 0 if fate != "dead_letter" else letters[number] > 0
            counts["handled" if fate != "dead_letter" else "dead-lettered"] += is_handled
            if not is_handled:
                counts["lost"] += 1
                self.faults.append(f"event {number} is lost")
            if letters[number] > (fate == "dead_letter"):
                self.faults.append(f"event {number} has {letters[number]} dead letters")
        counts["stuck"] += left
        if left:
            self.faults.append(f"{left} are left")


async def _run_all(server: Server, batch: Sequence[Schedule], tally: Tally, name: str) -> None:
    async with place_on(server) as place:
        runs = [
            _Run(place, schedule, f"cuts.n{name}x{number}.done", tally)
            for number, schedule in enumerate(batch)
        ]
        for run, faults in zip(runs, await asyncio.gather(*(run.run() for run in runs)), strict=True):
            tally.counts["schedules"] += 1
            assert not faults, (run.schedule, faults)


def run_cuts(server: Server, schedules_at_least: int, *, hasty: bool = False) -> Tally:
    """Runs so many schedules; raises ``AssertionError`` with the one that shows a fault."""
    tally = Tally(hasty=hasty)
    batches = -(-schedules_at_least // SIDE_BY_SIDE)

    @seed(23)
    @settings(
        max_examples=batches,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(schedules(), min_size=SIDE_BY_SIDE, max_size=SIDE_BY_SIDE))
    def examine(batch: list[Schedule]) -> None:
        tally.counts["batches"] += 1
        asyncio.run(_run_all(server, batch, tally, str(tally.counts["batches"])))

    examine()
    return tally

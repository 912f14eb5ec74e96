"""Random concurrent operations on a bus: its account is balanced at every moment."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from bus_core import (
    AttemptFailure,
    BufferFull,
    BusClosed,
    Delivery,
    Envelope,
    FixedRetry,
    Handler,
    PermanentError,
    Postpone,
    RetryLater,
    Subscription,
    Topic,
    TopicPattern,
    UnknownSubscription,
)
from bus_core.runtime.timeouts import call_within
from promenade_bus_memory import MemoryHub
from promenade_bus_testing import VirtualClock
from support.buses import Happened, close_now, make_bus
from support.mix_account import Account, Delivered, Owed, Place

pytestmark = pytest.mark.timeout(60)

TOPICS = [
    Topic("mix.first.happened", Happened),
    Topic("mix.second.happened", Happened),
    Topic("mix.keyed.happened", Happened, key=lambda event: f"key-{event.number % 3}"),
]
WHERE: list[Topic[Happened] | str] = [*TOPICS, *TOPICS, "mix.*.happened", "#"]
KEYS = [UUID(int=number) for number in range(1, 4)]

mark: ContextVar[int] = ContextVar("mark")

Cause: TypeAlias = Callable[[], Delivered | None]
"""Tells the handler that published an event when it is accepted."""


class Mix:
    """A bus, or two that share a hub; what its handlers do; and what is done to it meanwhile."""

    def __init__(self, seed: int, clock: VirtualClock, *, serialize: bool) -> None:
        self.chance = chance = random.Random(seed)
        self.clock = clock
        self.has_middleware = chance.random() < 0.25
        self.has_publish_middleware = chance.random() < 0.25
        self.has_threads = chance.random() < 0.1
        memory = {"serialize": serialize, "hub": MemoryHub()}
        self.accounts = [self.open_bus(memory) for _ in range(chance.choice([1, 1, 2]))]
        self.owed: dict[str, Owed] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.numbers = itertools.count(1)
        # Not everything each time: what is done often hides what follows from the rest.
        self.actions = chance.sample(ACTIONS, chance.randint(2, len(ACTIONS)))
        self.steps = [Mix.publish_one, *chance.sample(STEPS, chance.randint(3, len(STEPS)))]
        self.actions_left = 400  # then handlers return at once, so that all comes to an end
        self.is_closing = False
        self.drains: list[tuple[Account, frozenset[Place]]] = []
        self.workers: dict[asyncio.Task[Any], None] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.wrong: list[BaseException] = []

    def open_bus(self, memory: dict[str, Any]) -> Account:
        chance = self.chance
        bus = make_bus(
            self.clock,
            memory=memory,
            worker_pool_size=chance.randint(1, 5),
            buffer_size=chance.choice([1, 2, 5, 20, 200]),
            overflow_size=chance.choice([1, 5, 1000]),
        )
        for topic in TOPICS:
            bus.parts.registry.declare(topic)
        self.clock.wait_for_work_elsewhere(lambda: bus.threads_at_work)
        bus.instrument(
            failure=self.failed,
            consume=self.around_handlers if self.has_middleware else None,
            publish=self.around_publishing if self.has_publish_middleware else None,
        )
        return Account(bus)

    # --- subscriptions ------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        chance = self.chance
        where = chance.choice(WHERE)
        pattern = TopicPattern(where if isinstance(where, str) else where.name)
        owed = Owed(
            account=chance.choice(self.accounts),
            name=f"listener-{len(self.owed)}",
            pattern=pattern,
            ordered=chance.random() < 0.3,
            concurrency=chance.choice([None, None, 1, 2, 3, 4]),
            skips=chance.choice([None, None, None, 3]),
        )
        owed.account.owed.append(owed)
        self.owed[owed.name] = owed
        in_thread = self.has_threads and chance.random() < 0.3
        options: dict[str, Any] = {} if owed.skips is None else {"where": owed.where}
        if not in_thread and chance.random() < 0.2:
            options["timeout"] = chance.choice([1, 2.5])
        self.subscriptions[owed.name] = owed.account.bus.subscribe(
            where,
            self.handler_in_thread(owed) if in_thread else self.handler(owed),
            name=owed.name,
            ordered=owed.ordered,
            concurrency=owed.concurrency,
            retry=FixedRetry(attempts=3, delay=chance.choice([0, 0.5, 2])),
            **options,
        )

    def handler(self, owed: Owed) -> Callable[..., Awaitable[None]]:
        async def handle(event: Happened) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.workers[task] = None
            if self.has_middleware:
                await self.act(owed.deliveries[event.number])
            else:
                await self.watch(owed, event, self.act)

        async def handle_with_delivery(event: Happened, delivery: Delivery) -> None:
            delivered = owed.deliveries[event.number]
            assert (delivery.topic, delivery.subscription) == (delivered.topic, owed.name)
            assert delivery.message_id == str(event.event_id)
            assert (delivery.attempt, delivery.redelivered) == (delivered.attempt, delivered.redelivered)
            await handle(event)

        return handle_with_delivery if self.chance.random() < 0.3 else handle

    def handler_in_thread(self, owed: Owed) -> Callable[[Happened], None]:
        def handle(event: Happened) -> None:
            fails = event.number % 7 == 0
            if not self.has_middleware:
                owed.end(owed.begin(event, in_thread=True), well=not fails)
            if fails:
                raise ValueError("in a thread")

        return handle

    async def watch(
        self, owed: Owed, event: Happened, handle: Callable[[Delivered], Awaitable[None]]
    ) -> None:
        delivered = owed.begin(event)
        try:
            await handle(delivered)
        except BaseException:
            owed.end(delivered, well=False)
            raise
        owed.end(delivered, well=True)

    def around_handlers(self, following: Handler) -> Handler:
        async def middleware(envelope: Envelope) -> None:
            async def go_on(delivered: Delivered) -> None:
                await self.wait_turns(delivered)
                await following(envelope)

            assert envelope.delivery is not None
            assert isinstance(envelope.event, Happened)
            await self.watch(self.owed[envelope.delivery.subscription], envelope.event, go_on)

        return middleware

    def around_publishing(self, following: Handler) -> Handler:
        async def middleware(envelope: Envelope) -> None:
            envelope.headers["seen"] = "yes"
            await following(envelope)

        return middleware

    def failed(self, failure: AttemptFailure) -> None:
        try:
            if isinstance(failure.error, AssertionError | LookupError | TypeError):
                raise failure.error
            self.owed[failure.subscription].failed(failure, self.clock.monotonic())
        except BaseException as wrong:
            self.wrong.append(wrong)

    # --- what handlers do ---------------------------------------------------------------------------------

    async def act(self, delivered: Delivered) -> None:
        for _ in range(self.chance.choice([0, 1, 1, 2])):
            self.actions_left -= 1
            if self.actions_left < 0:
                return
            await self.chance.choice(self.actions)(self, delivered)

    async def wait_turns(self, delivered: Delivered) -> None:
        for _ in range(self.chance.randint(0, 4)):
            await asyncio.sleep(0)

    async def wait_time(self, delivered: Delivered) -> None:
        await self.time(self.chance.choice([0.5, 1, 2.5, 4]))

    async def time(self, seconds: float) -> None:
        over = asyncio.Event()
        timer = self.clock.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    async def wait_within(self, delivered: Delivered) -> None:
        try:
            await call_within(self.clock, 1, TimeoutError, self.time, self.chance.choice([0.5, 1, 2]))
        except TimeoutError:
            await asyncio.sleep(0)

    async def outlast(self, delivered: Delivered) -> None:
        try:
            await self.time(2)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    async def fail(self, delivered: Delivered) -> None:
        after = self.chance.choice([0.0, 0.5, 1.0])
        errors = [
            ValueError("no"),
            RetryLater(after=after),
            Postpone(after=after),
            PermanentError("never"),
            asyncio.CancelledError(),
            SystemExit(1),
        ]
        raise self.chance.choice(errors)

    async def publish_several_on(self, delivered: Delivered) -> None:
        for _ in range(self.chance.randint(1, 3)):
            await self.publish(lambda: delivered)

    async def publish_on_nowait(self, delivered: Delivered) -> None:
        self.publish_nowait(lambda: delivered)

    async def have_a_child_publish(self, delivered: Delivered) -> None:
        is_awaited = self.chance.random() < 0.5

        async def child() -> None:
            await asyncio.sleep(0)
            await self.publish(lambda: delivered if is_awaited else None)

        task = self.spawn(child())
        if is_awaited:
            try:
                await asyncio.wait([task])
            finally:
                is_awaited = False

    async def change_context(self, delivered: Delivered) -> None:
        assert mark.get(delivered.event.number) == delivered.event.number, "another handler has set it"
        mark.set(delivered.event.number)

    async def cancel_itself(self, delivered: Delivered) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def meddle(self, delivered: Delivered) -> None:
        account = delivered.place.account
        what = self.chance.choice([self.pause, self.resume, self.leave_from_inside, self.redrive])
        await what(account)

    async def look(self, delivered: Delivered | None = None) -> None:
        if not self.has_threads:  # a handler in a thread may be further than the bus knows
            for account in self.accounts:
                account.check()

    # --- what is done meanwhile: publishing ---------------------------------------------------------------

    async def publish(self, cause: Cause = lambda: None) -> None:
        if self.is_closing and len(self.accounts) > 1:
            return  # only the bus itself knows whether it gets events of the other still
        account = self.chance.choice(self.accounts)
        topic, event = self.new_event()
        headers = self.chance.choice([None, None, {"number": str(event.number)}])
        try:
            await account.bus.publish(topic, event, headers=headers)
        except BufferFull:
            assert any(each.bus.in_handler for each in self.accounts)
        except BusClosed:
            assert not account.is_open
        else:
            self.accepted(account, topic, event, cause())

    def publish_nowait(self, cause: Cause = lambda: None) -> None:
        if self.is_closing and len(self.accounts) > 1:
            return
        account = self.chance.choice(self.accounts)
        topic, event = self.new_event()
        try:
            account.bus.publish_nowait(topic, event)
        except BufferFull:
            pass
        except BusClosed:
            assert not account.is_open
        else:
            self.accepted(account, topic, event, cause())

    def new_event(self) -> tuple[Topic[Happened], Happened]:
        number = next(self.numbers)
        return self.chance.choice(TOPICS), Happened(aggregate_id=self.chance.choice(KEYS), number=number)

    def accepted(
        self, account: Account, topic: Topic[Happened], event: Happened, cause: Delivered | None = None
    ) -> None:
        """To be called before anything else gets its turn."""
        key = str(event.aggregate_id) if topic.key is None else topic.key(event)
        account.published += 1
        if not [each for each in self.accounts if each.accepted(event, topic.name, key, cause)]:
            account.unrouted += 1

    async def publish_one(self) -> None:
        self.publish_nowait()

    async def publish_several(self) -> None:
        for _ in range(self.chance.randint(1, 12)):
            self.publish_nowait()

    async def publish_waiting(self) -> None:
        async def several(number: int) -> None:
            for _ in range(number):
                await self.publish()

        self.spawn(several(self.chance.randint(1, 12)))

    async def publish_many(self) -> None:
        account = self.chance.choice(self.accounts)

        def several(number: int) -> Iterator[tuple[Topic[Happened], Happened]]:
            for _ in range(number):
                topic, event = self.new_event()
                yield topic, event
                self.accepted(account, topic, event)

        if account.is_open:
            self.spawn(account.bus.publish_many(several(self.chance.randint(1, 12))))

    # --- what is done meanwhile: the rest -----------------------------------------------------------------

    def any_attached(self, account: Account | None) -> Owed | None:
        attached = [each for each in self.owed.values() if each.attached and each.account.is_open]
        mine = [each for each in attached if account in (None, each.account)]
        return self.chance.choice(mine) if mine else None

    async def pause(self, account: Account | None = None) -> None:
        owed = self.any_attached(account)
        if owed is not None:
            self.subscriptions[owed.name].pause()
            owed.paused = True

    async def resume(self, account: Account | None = None) -> None:
        owed = self.any_attached(account)
        if owed is not None:
            owed.paused = False
            self.subscriptions[owed.name].resume()

    async def join(self) -> None:
        if len(self.owed) < 8:
            self.subscribe()

    async def leave_from_inside(self, account: Account) -> None:
        owed = self.any_attached(account)
        if owed is not None and self.chance.random() < 0.3:
            owed.attached = owed.paused = False
            await self.subscriptions[owed.name].unsubscribe()

    async def leave(self) -> None:
        async def leaving(owed: Owed) -> None:
            owed.attached = owed.paused = False
            await self.subscriptions[owed.name].unsubscribe()
            assert not owed.left

        owed = self.any_attached(None)
        if owed is not None:
            self.spawn(leaving(owed))

    async def redrive(self, account: Account | None = None) -> None:
        account = account or self.chance.choice(self.accounts)
        if not account.is_open:
            return
        letters = [each for each in await account.bus.dead_letters.list() if self.chance.random() < 0.5]
        try:
            await account.bus.dead_letters.redrive([letter.id for letter in letters])
        except UnknownSubscription:
            assert not all(self.owed[letter.subscription].attached for letter in letters)
            return
        for letter in letters:
            owed = self.owed[letter.subscription]
            (number,) = [
                number for number, each in owed.deliveries.items() if each.event.event_id == letter.event_id
            ]
            account.redriven(owed, number)

    async def drain(self) -> None:
        async def draining(account: Account, timeout: float | None) -> None:
            before = frozenset(account.places)
            self.drains.append((account, before))
            try:
                await account.bus.drain(timeout)
            except TimeoutError:
                assert timeout is not None
            else:
                left = account.left_of(before)
                assert not left, f"drained although there are {left}"
            finally:
                self.drains.remove((account, before))

        self.spawn(draining(self.chance.choice(self.accounts), self.chance.choice([None, 1])))

    async def publish_and_drain(self) -> None:
        """Events to drain are still in the queue, before any worker has come to them."""
        await self.publish_several()
        await self.drain()

    async def cancel_a_worker(self) -> None:
        workers = [task for task in self.workers if not task.done()]
        if workers:
            self.chance.choice(workers).cancel()

    async def pass_turns(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            await asyncio.sleep(0)

    async def pass_time(self) -> None:
        await self.clock.advance(self.chance.choice([0.25, 0.5, 1, 3]))

    async def settle(self) -> None:
        await self.clock.advance(0)
        for account in self.accounts:
            account.check_progress(self.clock.monotonic())
        # What a child publishes may be taken for its handler's, and what another bus gets as well.
        if len(self.accounts) == 1 and Mix.have_a_child_publish not in self.actions:
            for account, before in self.drains:
                assert account.left_of(before), "a drain waits for what came later"

    async def settle_and_look(self) -> None:
        await self.settle()
        for account in self.accounts:
            account.check()

    # --- all together -------------------------------------------------------------------------------------

    def spawn(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(steps)
        self.tasks.add(task)
        return task

    def raise_what_is_wrong(self) -> None:
        if self.wrong:
            raise self.wrong[0]
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.discard(task)
            task.result()

    async def run(self, steps: int) -> None:
        """Does so many things, one after the other, and makes the account at the end."""
        for _ in range(self.chance.randint(1, 5)):
            self.subscribe()
        for account in self.accounts:
            await account.bus.start()
        try:
            for _ in range(steps):
                await self.chance.choice(self.steps)(self)
                self.raise_what_is_wrong()
            await (self.close_early() if self.chance.random() < 0.3 else self.clock.run(self.finish()))
            self.raise_what_is_wrong()
        finally:
            for task in self.tasks:
                task.cancel()
            for account in self.accounts:
                await close_now(account.bus, self.clock)

    async def finish(self) -> None:
        """Lets all come to an end: then everything is settled."""
        self.actions_left = min(self.actions_left, 30)
        while self.tasks or any(account.places for account in self.accounts):
            for owed in self.owed.values():
                if owed.attached:
                    owed.paused = False
                    self.subscriptions[owed.name].resume()
            tick = asyncio.ensure_future(self.time(1))
            await asyncio.wait({tick, *self.tasks}, return_when=asyncio.FIRST_COMPLETED)
            tick.cancel()
            self.raise_what_is_wrong()
        for account in self.accounts:
            await account.bus.drain()
            account.check()
        for owed in self.owed.values():
            state = self.subscriptions[owed.name].state
            owed.check(state)
            assert owed.counted["retried"] == state.retried
            assert not any(owed.by_key.values())
        for account in self.accounts:
            assert (await account.bus.close()).completed

    async def close_early(self) -> None:
        """A bus reports exactly the events that it owes as abandoned."""
        self.is_closing = True
        self.actions_left = 20
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        for account in self.accounts:
            report = await self.clock.run(account.bus.close(self.chance.choice([0, 1, 3])))
            theirs = Counter((each.subscription, each.event_id) for each in report.abandoned)
            left = [(owed.name, str(each.event.event_id)) for owed in account.owed for each in owed.left]
            assert max(theirs.values(), default=1) == 1
            assert not {*left} - theirs.keys(), "given up, and not reported"
            running = {
                (each.subscription, each.event_id) for each in report.abandoned if each.state == "running"
            }
            assert not theirs.keys() - {*left} - running, "reported, although it was settled"


ACTIONS = [
    Mix.wait_turns,
    Mix.wait_turns,
    Mix.wait_time,
    Mix.wait_time,
    Mix.wait_within,
    Mix.outlast,
    Mix.fail,
    Mix.fail,
    Mix.publish_several_on,
    Mix.publish_on_nowait,
    Mix.have_a_child_publish,
    Mix.change_context,
    Mix.cancel_itself,
    Mix.meddle,
    Mix.look,
]
"""The actions of handlers."""

STEPS = [
    Mix.publish_one,
    Mix.publish_one,
    Mix.publish_several,
    Mix.publish_several,
    Mix.publish_waiting,
    Mix.publish_many,
    Mix.pause,
    Mix.resume,
    Mix.resume,
    Mix.join,
    Mix.leave,
    Mix.redrive,
    Mix.drain,
    Mix.publish_and_drain,
    Mix.publish_and_drain,
    Mix.cancel_a_worker,
    Mix.pass_turns,
    Mix.pass_time,
    Mix.pass_time,
    Mix.settle,
    Mix.settle,
    Mix.settle_and_look,
    Mix.look,
]
"""The actions on the bus meanwhile."""


def uneven_clock(chance: random.Random) -> Callable[[], float]:
    """A clock that tells workers now and then that they have run for long, or that all stood still."""
    steps = chance.choice([[0.0], [0.0, 0.0005, 0.003], [0.0, 0.0, 0.003, 1.5]])
    return partial(next, itertools.accumulate(iter(lambda: chance.choice(steps), None)))


@pytest.mark.parametrize("serialize", [False, True], ids=["objects", "serialized"])
@pytest.mark.parametrize("seed", range(40))
async def test_any_mix(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, seed: int, serialize: bool
) -> None:
    """Each accepted event is handled exactly once for each subscription, in order and within bounds."""
    monkeypatch.setattr("bus_core.dispatch.worker_pool.lease_clock", uneven_clock(random.Random(-seed)))
    await Mix(seed, virtual_clock, serialize=serialize).run(60)

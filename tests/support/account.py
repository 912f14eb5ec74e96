"""A bus under random load, and an independent account of everything that it was given."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

from bus_core import (
    Bus,
    BusClosed,
    Delivery,
    DrainReport,
    FixedRetry,
    NoRetry,
    PermanentError,
    Postpone,
    RetryLater,
    Subscription,
    Topic,
    TopicPattern,
    UnknownSubscription,
)
from promenade_bus_testing import Balance, VirtualClock
from support.buses import Happened, make_bus

TOPICS = [Topic(f"load.topic{index}.happened", Happened) for index in range(3)]
PATTERNS = ["load.*.happened", "load.#", "load.topic1.*"]

_trace: contextvars.ContextVar[object] = contextvars.ContextVar("trace")

Pair = tuple[str, UUID]
"""The name of a subscription, and an event that it has to see to an end."""


class Subscriber:
    """One subscription: what it has to do with, what it did, and whether it kept the rules."""

    def __init__(self, load: Load, name: str, topic: str, options: dict[str, Any]) -> None:
        self.load = load
        self.name = name
        self.pattern = TopicPattern(topic)
        self.options = options
        self.subscribed = True
        self.subscription: Subscription | None = None
        self.running: Counter[UUID] = Counter()
        self.begun: dict[UUID, list[int]] = defaultdict(list)

    def select(self, event: Happened) -> bool:
        if event.number % 5:
            return True
        self.load.skipped[self.name, event.event_id] += 1
        return False

    async def handle(self, event: Happened, delivery: Delivery | None = None) -> None:
        load = self.load
        key = event.aggregate_id
        load.check(
            (self.name, event.event_id) in load.expected, f"{self.name} got an event that is not its own"
        )
        load.check(_trace.get(None) is None, f"{self.name} saw a context variable of another handler")
        self.running[key] += 1
        if self.options.get("ordered"):
            load.check(self.running[key] == 1, f"{self.name} ran two events of one key at once")
            if event.number not in self.begun[key]:
                self.begun[key].append(event.number)
        at_once = sum(self.running.values())
        load.check(at_once <= self.options.get("concurrency", at_once), f"{self.name} ran too many at once")
        load.running += 1
        load.check(
            load.running <= load.bus.config.worker_pool_size, "more handlers ran than there are workers"
        )
        try:
            await load.misbehave(event, timed="timeout" in self.options)
        finally:
            load.running -= 1
            self.running[key] -= 1
        load.handled[self.name, event.event_id] += 1

    async def handle_with_delivery(self, event: Happened, delivery: Delivery) -> None:
        self.load.check(delivery.subscription == self.name, "a delivery names another subscription")
        self.load.check(self.pattern.matches(delivery.topic), "a delivery names another topic")
        self.load.check(delivery.redelivered or delivery.attempt == 1, "a first attempt is not the first")
        await self.handle(event, delivery)


class Load:
    """Publishes events to random subscriptions whose handlers do whatever handlers should not do."""

    def __init__(self, seed: int, clock: VirtualClock, *, serialize: bool, faults: float = 0.4) -> None:
        self.chance = random.Random(seed)
        self.clock = clock
        self.faults = faults
        self.bus: Bus = make_bus(
            clock,
            worker_pool_size=self.chance.choice([1, 2, 5]),
            buffer_size=self.chance.choice([1, 3, 50]),
            memory={"serialize": serialize},
        )
        self.wrong: list[str] = []
        self.expected: Counter[Pair] = Counter()
        self.handled: Counter[Pair] = Counter()
        self.skipped: Counter[Pair] = Counter()
        self.buried: Counter[Pair] = Counter()
        self.published: dict[UUID, list[int]] = defaultdict(list)
        self.accepted = 0
        self.running = 0
        self.subscribers: list[Subscriber] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._keys = [uuid4() for _ in range(4)]
        self._numbers = 0
        adapter: Any = self.bus.adapter
        bury = adapter.bury

        def counting_bury(letter: Any, payload: Any, inlet: Any) -> None:
            self.buried[letter.subscription, letter.event_id] += 1
            bury(letter, payload, inlet)

        adapter.bury = counting_bury

    def check(self, holds: bool, what: str) -> None:
        """Notes a broken rule. An exception would only look like one more failing handler."""
        if not holds:
            self.wrong.append(what)

    # --- what happens -------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        chance = self.chance
        options: dict[str, Any] = {"retry": chance.choice([NoRetry(), FixedRetry(attempts=3, delay=0.1)])}
        if chance.random() < 0.5:
            options |= chance.choice(
                [
                    {"ordered": True},
                    {"concurrency": chance.choice([1, 2])},
                    {"ordered": True, "concurrency": chance.choice([1, 2])},
                    {"timeout": 1.0},
                    {"mode": "broadcast"},
                ]
            )
        topic: Any = chance.choice([*TOPICS, *PATTERNS])
        text = topic if isinstance(topic, str) else topic.name
        subscriber = Subscriber(self, f"subscriber-{len(self.subscribers)}", text, options)
        if chance.random() < 0.2:
            options["where"] = subscriber.select
        handler = subscriber.handle_with_delivery if chance.random() < 0.3 else subscriber.handle
        subscriber.subscription = self.bus.subscribe(topic, handler, name=subscriber.name, **options)
        self.subscribers.append(subscriber)

    async def publish(self) -> None:
        self._numbers += 1
        event = Happened(aggregate_id=self.chance.choice(self._keys), number=self._numbers)
        topic = self.chance.choice(TOPICS)
        headers = {"trace": "1"} if self.chance.random() < 0.2 else None
        try:
            await self.bus.publish(topic, event, headers=headers)
        except BusClosed:
            return
        # Publish returns in the moment of the acceptance, so that nothing has changed since.
        self.accepted += 1
        self.published[event.aggregate_id].append(event.number)
        for subscriber in self.subscribers:
            if subscriber.subscribed and subscriber.pattern.matches(topic.name):
                self.expected[subscriber.name, event.event_id] += 1

    async def misbehave(self, event: Happened, *, timed: bool) -> None:
        chance = self.chance
        if chance.random() < 0.3:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        if chance.random() < 0.1:
            gate = asyncio.Event()
            self.clock.call_later(chance.random(), gate.set)
            await gate.wait()
        if chance.random() < 0.1:
            _trace.set(event.number)
        if chance.random() < 0.1 and self._numbers < 400:
            await self.publish()
        if chance.random() > self.faults:
            return
        task = asyncio.current_task()
        assert task is not None
        match chance.randrange(10):
            case 0 | 1:
                raise ValueError("no")
            case 2:
                raise PermanentError("never")
            case 3:
                raise RetryLater(after=chance.random())
            case 4:
                raise Postpone(after=chance.random())
            case 5:
                raise chance.choice([asyncio.CancelledError, SystemExit, KeyboardInterrupt, MemoryError])
            case 6:
                task.cancel()
            case 7:
                task.cancel()
                await asyncio.sleep(0)
            case 8:
                asyncio.get_running_loop().call_soon(task.cancel)
            case _:
                if timed:
                    await asyncio.Event().wait()

    async def pause_or_resume(self) -> None:
        subscriber = self.chance.choice(self.subscribers)
        if subscriber.subscribed and subscriber.subscription is not None:
            pause_or_resume = (subscriber.subscription.pause, subscriber.subscription.resume)
            self.chance.choice(pause_or_resume)()

    async def unsubscribe(self) -> None:
        subscriber = self.chance.choice(self.subscribers)
        if not subscriber.subscribed or subscriber.subscription is None:
            return
        self.in_background(self._unsubscribe(subscriber, subscriber.subscription))
        await asyncio.sleep(0)

    async def _unsubscribe(self, subscriber: Subscriber, subscription: Subscription) -> None:
        subscriber.subscribed = False
        await subscription.unsubscribe()
        left = [pair for pair in self.expected - self.ended() if pair[0] == subscriber.name]
        self.check(not left or self.closing, f"unsubscribe returned before {len(left)} events were settled")

    async def drain(self) -> None:
        self.in_background(self._drain())
        await asyncio.sleep(0)

    async def _drain(self) -> None:
        before = self.expected.copy()
        timeout = self.chance.choice([None, 0.3])
        try:
            await self.bus.drain(timeout)
        except (TimeoutError, BusClosed):
            return
        left = before - self.ended()
        self.check(not left, f"drain returned before {left.total()} events were settled")

    async def redrive(self) -> None:
        letters = await self.bus.dead_letters.list(limit=self.chance.choice([1, 100]))
        for letter in letters:
            pair = (letter.subscription, letter.event_id)
            assert letter.event_id is not None
            self.expected[letter.subscription, letter.event_id] += 1
            try:
                moved = await self.bus.dead_letters.redrive(letter)
            except UnknownSubscription:
                moved = 0
            if not moved:
                self.expected[pair] -= 1  # type: ignore[index]

    # --- running it ---------------------------------------------------------------------------------------

    closing = False

    def in_background(self, call: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(call))

    async def run(self, steps: int = 150) -> None:
        """Starts the bus, and does random things."""
        await self.bus.start()
        for _ in range(self.chance.randrange(2, 8)):
            self.subscribe()
        actions: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *[self.pause_or_resume] * 4,
            self.unsubscribe,
            *[self.drain] * 2,
            *[self.redrive] * 2,
        ]
        for _ in range(steps):
            self.in_background(self.publish())
            if self.chance.random() < 0.3:
                await self.chance.choice(actions)()
            if self.chance.random() < 0.03:
                self.subscribe()
            match self.chance.randrange(6):
                case 0:
                    await self.clock.advance(self.chance.random())
                case 1 | 2:
                    for _ in range(self.chance.randrange(4)):
                        await asyncio.sleep(0)
                case _:
                    pass

    async def finish(self) -> None:
        """Lets everything come to its end."""
        for subscriber in self.subscribers:
            if subscriber.subscribed and subscriber.subscription is not None:
                subscriber.subscription.resume()
        for _ in range(2000):
            await self.clock.advance(1)
            if not self.bus.state().unsettled and all(task.done() for task in self.tasks):
                break
        else:
            self.check(False, f"events or callers are stuck: {self.bus.state()}")
        await self._results()

    async def close(self, timeout: float) -> DrainReport:
        """Closes the bus while all this is going on."""
        self.closing = True
        close = asyncio.ensure_future(self.bus.close(timeout))
        await self.clock.advance(timeout)
        report = await asyncio.wait_for(close, 10)
        await self.clock.settle()
        await self._results()
        return report

    async def _results(self) -> None:
        for task in self.tasks:
            if not task.done():
                self.check(False, f"a caller is stuck: {task.get_coro()}")
                task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            self.check(
                result is None or isinstance(result, asyncio.CancelledError), f"a caller got {result!r}"
            )

    # --- the account --------------------------------------------------------------------------------------

    def ended(self) -> Counter[Pair]:
        """The events that have ended, and how often: more than once when it was redriven."""
        return self.handled + self.skipped + self.buried

    def verdict(self, report: DrainReport | None = None) -> list[str]:
        """Everything that is wrong; nothing when each event came to exactly one end."""
        wrong = [*self.wrong]
        abandoned = Counter(
            (item.subscription, UUID(item.event_id)) for item in (report.abandoned if report else ())
        )
        balance = Balance.of(self.expected, self.ended() + abandoned)
        wrong += [f"lost {count} of {pair}" for pair, count in balance.lost.items()]
        wrong += [f"{count} too many of {pair}" for pair, count in balance.surplus.items()]
        state = self.bus.state()
        if report is None and state.unsettled:
            wrong.append(f"{state.unsettled} unsettled")
        if state.lost:
            wrong.append(f"{state.lost} counted as lost")
        if state.published != self.accepted:
            wrong.append(f"{state.published} published, but {self.accepted} accepted")
        for subscriber in self.subscribers:
            assert subscriber.subscription is not None
            counters = subscriber.subscription.state
            for name, ends in (("handled", self.handled), ("skipped", self.skipped)):
                ours = sum(count for (who, _), count in ends.items() if who == subscriber.name)
                if getattr(counters, name) != ours:
                    wrong.append(f"{subscriber.name}: {name} {getattr(counters, name)}, but {ours} in truth")
            for key, numbers in subscriber.begun.items():
                if numbers != [number for number in self.published[key] if number in numbers]:
                    wrong.append(f"{subscriber.name} began a key out of order: {numbers}")
        return wrong

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest

from bus_core import (
    Attempt,
    Bus,
    BusClosed,
    BusError,
    BusNotStarted,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    DeadLetterPage,
    Delivery,
    DeserializationError,
    Event,
    Factory,
    FixedRetry,
    HealthStatus,
    Message,
    PermanentError,
    Serializer,
    Topic,
    UnknownSubscription,
    hookimpl,
)
from bus_core.serialization.cloudevents import JsonSerializer
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of

pytestmark = pytest.mark.timeout(30)

KEYED = Topic("test.keyed.happened", Happened, key=lambda event: f"key-{event.number}")

either_way = pytest.mark.parametrize(
    "memory", [{"serialize": False}, {"serialize": True}], ids=["objects", "serialized"]
)
LANES: dict[str, dict[str, Any]] = {"plain": {}, "ordered": {"ordered": True}, "bounded": {"concurrency": 2}}
every_lane = pytest.mark.parametrize("options", LANES.values(), ids=LANES)


class Handler:
    """Fails as long as it is told to, and keeps what it was given."""

    def __init__(self, *, failing: bool = True) -> None:
        self.failing = failing
        self.seen: list[tuple[Happened, Delivery]] = []

    async def __call__(self, event: Happened, delivery: Delivery) -> None:
        self.seen.append((event, delivery))
        if self.failing:
            raise ValueError(f"attempt {delivery.attempt} of {event.number}")

    @property
    def attempts(self) -> list[int]:
        return [delivery.attempt for _, delivery in self.seen]


def decoded(bus: Bus, letter: DeadLetter) -> Event:
    message = Message(str(letter.event_id), letter.topic, letter.key, letter.body, letter.headers)
    return bus.parts.codec.decode(message)


@every_lane
@either_way
async def test_content(virtual_clock: VirtualClock, memory: dict[str, Any], options: dict[str, Any]) -> None:
    """A letter tells topic, subscription, event, key, headers, reason, and every attempt."""
    async with running_bus(virtual_clock, memory=memory) as bus:

        async def fail(event: Happened) -> None:
            nonlocal attempt
            attempt += 1
            raise ValueError(f"attempt {attempt}")

        attempt = 0
        bus.subscribe(KEYED, fail, name="failing", **options)
        published = happened(7)
        await bus.publish(KEYED, published, headers={"trace": "abc"})
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        assert letter.topic == "test.keyed.happened"
        assert letter.subscription == "failing"
        assert letter.event_id == published.event_id
        assert letter.key == "key-7"
        assert letter.headers == {"trace": "abc"}
        assert letter.reason == "retries exhausted after 3 attempts"
        assert [(each.number, each.error) for each in letter.attempts] == [
            (1, "ValueError: attempt 1"),
            (2, "ValueError: attempt 2"),
            (3, "ValueError: attempt 3"),
        ]
        begin = datetime(2026, 1, 1, 12, tzinfo=UTC)
        assert [each.at - begin for each in letter.attempts] == [
            timedelta(seconds=seconds) for seconds in (0, 0.1, 0.3)
        ]
        assert letter.dead_at == letter.attempts[-1].at
        assert decoded(bus, letter) == published


async def test_default_key(virtual_clock: VirtualClock) -> None:
    """Unless the topic says otherwise, the key of a letter is the id of the aggregate."""
    async with running_bus(virtual_clock) as bus:
        bus.subscribe(HAPPENED, Handler())
        published = happened()
        await bus.publish(HAPPENED, published)
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        assert letter.key == str(published.aggregate_id)


async def test_body_is_not_shown(virtual_clock: VirtualClock) -> None:
    """The repr of a letter tells the size of its body only, which may hold personal data."""
    async with running_bus(virtual_clock) as bus:
        bus.subscribe(HAPPENED, Handler())
        await bus.publish(HAPPENED, happened(123456789))
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        assert b"123456789" in letter.body
        assert f"<{len(letter.body)} bytes>" in repr(letter)
        assert "cloudevents" not in repr(letter)


async def test_event_that_cannot_be_encoded(virtual_clock: VirtualClock) -> None:
    """A letter of an event that has no bytes says so, and is redriven with the event itself."""

    @attrs.frozen
    class Broken:
        def encode(self, event: Event, *, topic: str, source: str) -> bytes:
            raise OSError("the disk is gone")

        def decode(self, body: bytes, *, event_class: type[Event]) -> Event:
            raise AssertionError

    plugin = offering(lambda: Broken())
    async with running_bus(virtual_clock, plugins=[plugin], serializer="special") as bus:
        handler = Handler()
        bus.subscribe(HAPPENED, handler)
        published = happened()
        await bus.publish(HAPPENED, published)
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        assert letter.body == b""
        assert letter.reason.startswith("retries exhausted after 3 attempts; and it has no body")
        handler.failing = False
        assert await bus.dead_letters.redrive(letter) == 1
        await virtual_clock.settle()
        assert handler.seen[-1][0] is published
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)


# --- list, get, purge -------------------------------------------------------------------------------------


async def buried(bus: Bus, clock: VirtualClock) -> DeadLetterPage:
    """Ten letters: of two topics and two subscriptions."""

    async def fail(event: Event) -> None:
        raise PermanentError("no")

    bus.subscribe(HAPPENED, fail, name="one")
    bus.subscribe("test.*.happened", fail, name="two")
    for number in range(3):
        await bus.publish(HAPPENED, happened(number))
    for number in range(4):
        await bus.publish(OTHER, happened(number))
    await clock.settle()
    return await bus.dead_letters.list()


async def test_list_and_get(virtual_clock: VirtualClock) -> None:
    """Letters are listed oldest first, by topic and subscription, at most as many as asked for."""
    async with running_bus(virtual_clock) as bus:
        letters = await buried(bus, virtual_clock)
        assert len(letters) == len({letter.id for letter in letters}) == 10
        listing = bus.dead_letters.list
        assert await listing(subscription="one") == [x for x in letters if x.subscription == "one"]
        assert await listing(topic=OTHER.name) == [x for x in letters if x.topic == OTHER.name]
        assert len(await listing(topic=HAPPENED.name, subscription="two")) == 3
        assert await listing(topic=OTHER.name, subscription="one") == []
        assert await listing(limit=3) == letters[:3]
        for letter in letters:
            assert await bus.dead_letters.get(letter.id) == letter
        with pytest.raises(DeadLetterNotFound, match="no dead letter has the id 'x'"):
            await bus.dead_letters.get("x")
        with pytest.raises(ValueError, match="at least 1"):
            await listing(limit=0)


async def test_pages(virtual_clock: VirtualClock) -> None:
    """A list says where it goes on, a count needs no list, and all letters can be gone through."""
    async with running_bus(virtual_clock) as bus:
        letters = await buried(bus, virtual_clock)
        dead = bus.dead_letters
        assert letters.next_cursor is None
        first = await dead.list(limit=4)
        second = await dead.list(limit=4, cursor=first.next_cursor)
        third = await dead.list(limit=4, cursor=second.next_cursor)
        assert first + second + third == letters
        assert third.next_cursor is None
        assert repr(first) == f"DeadLetterPage({[*first]!r}, next_cursor={first.next_cursor!r})"
        assert (await dead.count(), await dead.count(topic=OTHER.name)) == (10, 4)
        assert [letter async for letter in dead.iterate()] == letters
        of_one = [letter async for letter in dead.iterate(subscription="one")]
        assert of_one == [letter for letter in letters if letter.subscription == "one"]
        for wrong in ("", "x", "-1", "\u0661"):
            with pytest.raises(ValueError, match="no cursor of these dead letters"):
                await dead.list(cursor=wrong)


async def test_more_letters_than_a_list_tells(virtual_clock: VirtualClock) -> None:
    """A list without a limit tells a hundred letters, and that there are more."""
    async with running_bus(virtual_clock) as bus:

        async def fail(event: Event) -> None:
            raise PermanentError("no")

        bus.subscribe(HAPPENED, fail, name="one")
        for number in range(250):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        listed = await bus.dead_letters.list()
        assert len(listed) == 100
        assert listed.next_cursor is not None
        assert await bus.dead_letters.count() == 250
        ids = [letter.id async for letter in bus.dead_letters.iterate()]
        assert len(ids) == len({*ids}) == 250


async def test_a_list_is_bounded_in_bytes(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large letters make a list shorter than its limit, and it says where to go on."""
    monkeypatch.setattr("bus_core.bus.dead_letters._MOST_BYTES", 1)
    async with running_bus(virtual_clock, memory={"serialize": True}) as bus:
        await buried(bus, virtual_clock)
        store = bus.adapter.dead_letters
        page = store.page

        async def one(where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
            return await page(where, after, 1)

        monkeypatch.setattr(store, "page", one)
        listed = await bus.dead_letters.list()
        assert len(listed) == 1
        assert len([letter async for letter in bus.dead_letters.iterate()]) == 10


async def test_a_redrive_by_filter_comes_to_an_end(virtual_clock: VirtualClock) -> None:
    """Letters that come back while a filter is redriven are not redriven once more."""
    async with running_bus(virtual_clock) as bus:
        await buried(bus, virtual_clock)
        store = bus.adapter.dead_letters
        seen = await store.count(DeadLetterFilter())
        page = store.page

        async def growing(where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
            if await store.count(where) < 50:
                await bus.publish(HAPPENED, happened())
                await virtual_clock.settle()
            return await page(where, after, 1)

        store.page = growing  # type: ignore[method-assign]
        assert await bus.dead_letters.redrive(DeadLetterFilter()) == seen


async def test_purge(virtual_clock: VirtualClock) -> None:
    """Purging deletes what the filter selects and nothing else, and deleting all has to be said."""
    async with running_bus(virtual_clock) as bus:
        await buried(bus, virtual_clock)
        with pytest.raises(BusError, match="needs a filter"):
            await bus.dead_letters.purge()
        assert await bus.dead_letters.purge(DeadLetterFilter(subscription="one")) == 3
        assert {letter.subscription for letter in await bus.dead_letters.list()} == {"two"}
        assert await bus.dead_letters.purge(DeadLetterFilter(topic=HAPPENED.name, subscription="one")) == 0
        assert await bus.dead_letters.purge(DeadLetterFilter()) == 7
        assert await bus.dead_letters.list() == []
        assert bus.state().lost == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda letters: letters.list(),
        lambda letters: letters.get("x"),
        lambda letters: letters.redrive("x"),
        lambda letters: letters.purge(DeadLetterFilter()),
    ],
    ids=["list", "get", "redrive", "purge"],
)
async def test_needs_an_open_bus(virtual_clock: VirtualClock, call: Callable[[Any], Any]) -> None:
    """Dead letters are reached through an open bus only."""
    bus = make_bus(virtual_clock)
    with pytest.raises(BusNotStarted):
        await call(bus.dead_letters)
    await bus.start()
    await bus.close()
    with pytest.raises(BusClosed):
        await call(bus.dead_letters)


# --- redrive ----------------------------------------------------------------------------------------------


@every_lane
@either_way
async def test_redrive(virtual_clock: VirtualClock, memory: dict[str, Any], options: dict[str, Any]) -> None:
    """Redriving delivers once more to the subscription that failed, and to no other, from attempt 1."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        failing, fine = Handler(), Handler(failing=False)
        bus.subscribe(HAPPENED, failing, name="failing", **options)
        bus.subscribe(HAPPENED, fine, name="fine", **options)
        bus.subscribe("test.#", Handler(failing=False), name="all")
        published = happened(7)
        await bus.publish(HAPPENED, published, headers={"trace": "abc"})
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        failing.failing = False
        assert await bus.dead_letters.redrive(letter) == 1
        assert await bus.dead_letters.list() == []
        await virtual_clock.settle()
        assert failing.attempts == [1, 2, 3, 1]
        event, delivery = failing.seen[-1]
        assert event == published
        assert delivery.redelivered
        assert delivery.message_id == str(published.event_id)
        assert delivery.headers == {"trace": "abc"}
        assert fine.attempts == [1]
        assert state_of(bus, "all").handled == 1
        state = state_of(bus, "failing")
        assert (state.redriven, state.handled, state.dead_lettered) == (1, 1, 1)
        assert bus.state().unsettled == 0


async def test_redrive_twice_is_once(virtual_clock: VirtualClock) -> None:
    """A letter is redriven once: repeating moves nothing, and neither does an unknown id."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        handler.failing = False
        assert await bus.dead_letters.redrive([letter.id, letter, letter.id, "unknown"]) == 1
        assert await bus.dead_letters.redrive(letter.id) == 0
        assert await bus.dead_letters.redrive(DeadLetterFilter()) == 0
        await virtual_clock.settle()
        assert handler.attempts == [1, 2, 3, 1]


async def test_redrive_by_filter(virtual_clock: VirtualClock) -> None:
    """A filter redrives what it selects."""
    async with running_bus(virtual_clock) as bus:
        await buried(bus, virtual_clock)
        assert await bus.dead_letters.redrive(DeadLetterFilter(subscription="two", topic=OTHER.name)) == 4
        await virtual_clock.settle()
        assert (state_of(bus, "one").redriven, state_of(bus, "two").redriven) == (0, 4)
        assert len(await bus.dead_letters.list()) == 10


@either_way
async def test_redrive_that_fails_again(virtual_clock: VirtualClock, memory: dict[str, Any]) -> None:
    """A redriven event that fails again gets all its retries, and its letter keeps the whole history."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        handler = Handler()
        bus.subscribe(HAPPENED, handler)
        published = happened()
        await bus.publish(HAPPENED, published)
        await virtual_clock.advance(60)
        (first,) = await bus.dead_letters.list()
        await bus.dead_letters.redrive(first)
        await virtual_clock.advance(60)
        assert handler.attempts == [1, 2, 3, 1, 2, 3]
        (second,) = await bus.dead_letters.list()
        assert second.id != first.id
        assert second.attempts[:3] == first.attempts
        assert [attempt.number for attempt in second.attempts] == [1, 2, 3, 1, 2, 3]
        assert (second.event_id, second.body, second.key) == (published.event_id, first.body, first.key)


async def test_each_redrive_has_a_time(virtual_clock: VirtualClock) -> None:
    """A delivery tells a redrive from the one before by the end of the attempts before it."""
    told: list[tuple[int, bool, datetime | None]] = []

    async def fail(event: Happened, delivery: Delivery) -> None:
        told.append((delivery.attempt, delivery.redriven, delivery.redriven_at))
        raise PermanentError("no")

    async with running_bus(virtual_clock) as bus:
        bus.subscribe(HAPPENED, fail)
        await bus.publish(HAPPENED, happened())
        ends: list[datetime | None] = [None]
        for _ in range(2):
            await virtual_clock.advance(60)
            (letter,) = await bus.dead_letters.list()
            ends.append(letter.attempts[-1].at)
            await bus.dead_letters.redrive(letter)
        await virtual_clock.advance(60)
    assert told == [(1, end is not None, end) for end in ends]


async def test_redrive_without_subscription(virtual_clock: VirtualClock) -> None:
    """When the subscription of one letter is gone, redriving says which, and moves none of them."""
    async with running_bus(virtual_clock) as bus:
        gone, there = Handler(), Handler()
        subscription = bus.subscribe(HAPPENED, gone, name="gone")
        bus.subscribe(HAPPENED, there, name="there")
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        await subscription.unsubscribe()
        letters = await bus.dead_letters.list()
        for order in (letters, letters[::-1], DeadLetterFilter()):
            with pytest.raises(UnknownSubscription, match="no subscription 'gone' to 'test"):
                await bus.dead_letters.redrive(order)
        await virtual_clock.settle()
        assert await bus.dead_letters.list() == letters
        assert there.attempts == [1, 2, 3]
        again = Handler(failing=False)
        bus.subscribe(HAPPENED, again, name="gone")
        assert await bus.dead_letters.redrive(DeadLetterFilter(subscription="gone")) == 1
        await virtual_clock.settle()
        assert again.attempts == [1]


async def test_redrive_to_a_subscription_of_that_name_elsewhere(virtual_clock: VirtualClock) -> None:
    """A subscription of the same name to another topic is not the one that failed."""
    async with running_bus(virtual_clock) as bus:
        subscription = bus.subscribe(HAPPENED, Handler(), name="same")
        elsewhere = Handler(failing=False)
        bus.subscribe(OTHER, elsewhere, name="same")
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        await subscription.unsubscribe()
        with pytest.raises(UnknownSubscription):
            await bus.dead_letters.redrive(DeadLetterFilter())
        await virtual_clock.settle()
        assert elsewhere.seen == []


async def test_redrive_to_a_paused_subscription(virtual_clock: VirtualClock) -> None:
    """A paused subscription holds what is redriven to it until it is resumed."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler()
        subscription = bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        subscription.pause()
        await bus.dead_letters.redrive(DeadLetterFilter())
        handler.failing = False
        await virtual_clock.advance(60)
        assert handler.attempts == [1, 2, 3]
        subscription.resume()
        await virtual_clock.settle()
        assert handler.attempts == [1, 2, 3, 1]


async def test_drain_waits_for_what_was_redriven(virtual_clock: VirtualClock) -> None:
    """A drain waits for letters redriven before it, and for their retries."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        await bus.dead_letters.redrive(DeadLetterFilter())
        drained = asyncio.ensure_future(bus.drain())
        await virtual_clock.settle()
        assert not drained.done()
        await virtual_clock.advance(1)
        assert drained.done()
        assert handler.attempts == [1, 2, 3, 1, 2, 3]


# --- what cannot be decoded -------------------------------------------------------------------------------


def offering(make: Callable[[], Serializer]) -> object:
    """A plugin that offers a serializer under the name "special"."""

    @attrs.frozen
    class Options:
        pass

    class Plugin:
        @hookimpl
        def promenade_bus_serializers(self) -> Mapping[str, Factory[Any, Serializer]]:
            return {"special": Factory(Options, lambda options, context: make())}

    return Plugin()


@attrs.define
class Picky:
    """JSON that cannot be read back while it holds a certain text."""

    forbidden: bytes
    json: JsonSerializer = attrs.field(factory=JsonSerializer)

    def encode(self, event: Event, *, topic: str, source: str) -> bytes:
        return self.json.encode(event, topic=topic, source=source)

    def decode(self, body: bytes, *, event_class: type[Event]) -> Event:
        if self.forbidden and self.forbidden in body:
            raise DeserializationError("forbidden")
        return self.json.decode(body, event_class=event_class)


@every_lane
async def test_undecodable(
    virtual_clock: VirtualClock, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An undecodable message is dead-lettered at once with its raw bytes; the handler never sees it."""
    picky = Picky(b"424242")
    plugin = offering(lambda: picky)
    async with running_bus(
        virtual_clock, plugins=[plugin], serializer="special", memory={"serialize": True}
    ) as bus:
        handler = Handler(failing=False)
        bus.subscribe(KEYED, handler, **options)
        poison = happened(424242)
        await bus.publish(KEYED, poison, headers={"trace": "abc"})
        await bus.publish(KEYED, happened(1))
        await virtual_clock.advance(60)
        assert [event.number for event, _ in handler.seen] == [1]
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "cannot be decoded"
        (attempt,) = letter.attempts
        assert attempt.number == 1
        assert attempt.error.endswith(": forbidden")
        assert (letter.event_id, letter.key) == (poison.event_id, "key-424242")
        assert letter.headers == {"trace": "abc"}
        assert b"424242" in letter.body
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)
        picky.forbidden = b""
        assert await bus.dead_letters.redrive(letter) == 1
        await virtual_clock.settle()
        assert handler.seen[-1][0] == poison


async def test_serializer_that_breaks_its_word(virtual_clock: VirtualClock) -> None:
    """A serializer that raises anything else while decoding dead-letters the event, no more."""

    class Broken(Picky):
        def decode(self, body: bytes, *, event_class: type[Event]) -> Event:
            raise RecursionError("too deep")

    plugin = offering(lambda: Broken(b""))
    async with running_bus(
        virtual_clock, plugins=[plugin], serializer="special", memory={"serialize": True}
    ) as bus:
        bus.subscribe(HAPPENED, Handler(failing=False))
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[-1].error == "RecursionError: too deep"
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)


# --- stores that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("full"), SystemExit(1), KeyboardInterrupt(), MemoryError()])
@either_way
async def test_store_that_fails(
    virtual_clock: VirtualClock,
    memory: dict[str, Any],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A letter that the store cannot take is counted as lost, logged with its ids, and health is degraded."""
    async with running_bus(virtual_clock, memory=memory, worker_pool_size=1) as bus:

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(bus.adapter, "bury", fail)
        handler = Handler()
        bus.subscribe(HAPPENED, handler, name="failing", ordered=True)
        published = happened(1)
        await bus.publish(HAPPENED, published)
        await virtual_clock.advance(60)
        state = bus.state()
        assert (state.unsettled, state.lost, state_of(bus).dead_lettered) == (0, 1, 1)
        report = await bus.health()
        assert report.status is HealthStatus.DEGRADED
        assert "lost 1 event or dead letter" in report.checks["bus"].summary
        (record,) = [record for record in caplog.records if "lost an event" in record.message]
        assert record.levelno >= logging.ERROR
        assert str(published.event_id) in record.message
        handler.failing = False
        await bus.publish(HAPPENED, happened(2, published.aggregate_id))
        await virtual_clock.settle()
        assert state_of(bus).handled == 1


async def test_letters_have_ids_of_their_own(virtual_clock: VirtualClock) -> None:
    """Each subscription that gives up on an event leaves a letter of its own, with an id of its own."""
    async with running_bus(virtual_clock) as bus:
        for name in "abc":
            bus.subscribe(HAPPENED, Handler(), name=name)
        key = uuid4()
        await bus.publish(HAPPENED, happened(1, key))
        await virtual_clock.advance(60)
        letters = await bus.dead_letters.list()
        assert {letter.subscription for letter in letters} == {"a", "b", "c"}
        assert len({letter.id for letter in letters}) == 3
        assert len({letter.event_id for letter in letters}) == 1
        assert all(isinstance(letter.event_id, UUID) for letter in letters)


async def test_an_attempt_knows_where_its_error_was_raised(caplog: pytest.LogCaptureFixture) -> None:
    """The letter and the log name file, line and function; the class of the error can be grouped by."""

    def deep() -> None:
        raise ValueError("secret")

    async def handle(event: Happened) -> None:
        deep()

    async with running_bus(retry_attempts=1) as bus:
        bus.subscribe(HAPPENED, handle, name="handle")
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    (attempt,) = letter.attempts
    line = deep.__code__.co_firstlineno + 1
    assert attempt.place == f"{__file__}:{line} in deep"
    assert (attempt.error_type, attempt.error) == ("ValueError", "ValueError: secret")
    assert f"failed with ValueError at {__file__}:{line} in deep (topic=" in caplog.text
    assert "secret" not in caplog.text


async def test_an_attempt_that_timed_out_knows_where_it_waited() -> None:
    """The place of a time limit is the line of the handler that waited, not one of the bus."""

    async def handle(event: Happened) -> None:
        await asyncio.Event().wait()

    async with running_bus(retry_attempts=1) as bus:
        bus.subscribe(HAPPENED, handle, name="handle", timeout=0.01)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    (attempt,) = letter.attempts
    assert attempt.error_type == "HandlerTimeout"
    assert attempt.place == f"{__file__}:{handle.__code__.co_firstlineno + 1} in handle"


async def test_tracebacks_are_opt_in() -> None:
    """With ``tracebacks: true`` the last five attempts keep their frames; by default none does."""

    def deep() -> None:
        raise ValueError("secret")

    async def handle(event: Happened) -> None:
        deep()

    kept: dict[bool, list[str]] = {}
    for wanted in (False, True):
        settings: dict[str, Any] = {"tracebacks": True} if wanted else {}
        async with running_bus(**settings) as bus:
            bus.subscribe(HAPPENED, handle, name="handle", retry=FixedRetry(attempts=7, delay=0))
            await bus.publish(HAPPENED, happened())
            await bus.drain()
            (letter,) = await bus.dead_letters.list()
            kept[wanted] = [attempt.traceback for attempt in letter.attempts]
    assert kept[False] == [""] * 7
    assert kept[True][:2] == ["", ""]
    for frames in kept[True][2:]:
        assert frames.endswith('raise ValueError("secret")')
        assert "in handle" in frames


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("KeyError: 'x'", "KeyError"),
        ("OSError", "OSError"),
        ("ValueError; caused by KeyError: 'x'", "ValueError"),
        ("ExceptionGroup: two (2 sub-exceptions) [ValueError: a]", "ExceptionGroup"),
    ],
)
def test_the_class_of_an_error(error: str, name: str) -> None:
    """The class is told alone, whatever follows it."""
    assert Attempt(1, datetime.now(UTC), error).error_type == name


async def test_a_letter_as_plain_data() -> None:
    """A letter is a dict that JSON takes as it is, with its attempts, and without the body if so wished."""

    async def handle(event: Happened) -> None:
        raise ValueError("no")

    async with running_bus(retry_attempts=1, tracebacks=True) as bus:
        bus.subscribe(HAPPENED, handle, name="handle")
        event = happened()
        await bus.publish(HAPPENED, event, headers={"trace": "abc"})
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    told = json.loads(json.dumps(letter.to_dict(), allow_nan=False))
    (attempt,) = told.pop("attempts")
    assert json.loads(told.pop("body"))["id"] == str(event.event_id)
    assert told == {
        "id": letter.id,
        "topic": "test.thing.happened",
        "subscription": "handle",
        "event_id": str(event.event_id),
        "key": str(event.aggregate_id),
        "reason": "retries exhausted after 1 attempt",
        "dead_at": letter.dead_at.isoformat().replace("+00:00", "Z"),
        "headers": {"trace": "abc"},
    }
    assert attempt.pop("traceback").endswith('raise ValueError("no")')
    assert attempt == {
        "number": 1,
        "at": letter.attempts[0].at.isoformat().replace("+00:00", "Z"),
        "error_type": "ValueError",
        "error": "ValueError: no",
        "place": f"{__file__}:{handle.__code__.co_firstlineno + 1} in handle",
    }
    assert "body" not in letter.to_dict(body=False)
    unreadable = attrs.evolve(letter, body=b"\xff", attempts=(Attempt(1, letter.dead_at, "OSError"),))
    told = unreadable.to_dict()
    assert (told["body_base64"], "body" in told, "traceback" in told["attempts"][0]) == ("/w==", False, False)

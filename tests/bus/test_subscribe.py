from __future__ import annotations

import asyncio
import functools
import inspect
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest

from bus_core import (
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    DuplicateSubscription,
    Event,
    ExponentialRetry,
    Features,
    FixedRetry,
    InvalidHandler,
    InvalidTopic,
    NoRetry,
    Subscription,
    Topic,
    TopicPattern,
    UnknownSubscription,
    UnknownTopic,
    UnsupportedFeature,
    WrongEventLoop,
    event,
)
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, until
from support.handlers import Collecting, ignore
from support.inline_plugins import MemoryWith, adapter_plugin

# --- when and how -----------------------------------------------------------------------------------------


async def test_before_and_after_start() -> None:
    """Subscriptions made before start and after it work alike; an event reaches those made before it."""
    before, after, late = Collecting(), Collecting(), Collecting()
    bus = make_bus()
    bus.subscribe(HAPPENED, before.collect, name="before")
    async with bus:
        bus.subscribe(HAPPENED, after.collect, name="after")
        await bus.publish(HAPPENED, happened(1))
        bus.subscribe(HAPPENED, late.collect, name="late")
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert (before.numbers, after.numbers, late.numbers) == ([1, 2], [1, 2], [2])


@pytest.mark.parametrize("started", [False, True])
async def test_decorator(started: bool) -> None:
    """The decorator form subscribes the handler and returns it unchanged."""
    received: list[int] = []

    async def note(event: Happened) -> None:
        received.append(event.number)

    bus = make_bus()
    if started:
        await bus.start()
    assert bus.subscribe(HAPPENED, name="note")(note) is note
    assert bus.subscribe("test.#", name="pattern", mode="broadcast")(note) is note
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
    assert received == [1, 1]


async def test_call_form() -> None:
    """The call form returns the subscription, which tells its name, topic and handler."""
    async with running_bus() as bus:
        subscription = bus.subscribe("test.*.happened", ignore, name="audit")
        assert isinstance(subscription, Subscription)
        assert (subscription.name, subscription.topic) == ("audit", "test.*.happened")
        assert subscription.handler is ignore
        assert repr(subscription) == "<Subscription 'audit' to 'test.*.happened'>"
        assert [found.name for found in bus.subscriptions] == ["audit"]


async def test_ready() -> None:
    """A subscription is ready while it is open, and says why not otherwise."""
    bus = make_bus()
    subscription = bus.subscribe(HAPPENED, ignore)
    with pytest.raises(BusNotStarted):
        await subscription.ready()
    async with bus:
        await subscription.ready()
        await subscription.unsubscribe()
        with pytest.raises(UnknownSubscription, match="was unsubscribed"):
            await subscription.ready()
    with pytest.raises(BusClosed):
        await subscription.ready()


async def test_state() -> None:
    """A subscription counts what it did, also after it was unsubscribed and its name was taken by another."""
    async with running_bus() as bus:
        first = bus.subscribe(HAPPENED, ignore, name="one", where=lambda event: event.number > 0)
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        await first.unsubscribe()
        second = bus.subscribe(HAPPENED, ignore, name="one")
        await bus.publish(HAPPENED, happened(9))
        await bus.drain()
        assert (first.state.handled, first.state.skipped) == (2, 1)
        assert (second.state.handled, second.state.skipped) == (1, 0)
    assert first.state.handled == 2


async def test_after_close() -> None:
    """Subscribing to a closed bus is an error that says closed."""
    async with running_bus() as bus:
        pass
    with pytest.raises(BusClosed, match="closed"):
        bus.subscribe(HAPPENED, ignore)


async def test_from_another_thread() -> None:
    """A running bus cannot be subscribed to from another thread."""
    async with running_bus() as bus:
        with pytest.raises(WrongEventLoop):
            await asyncio.to_thread(bus.subscribe, HAPPENED, ignore)


def test_signature() -> None:
    """The signature that users see in ``help`` lists every option with its default."""
    options = list(inspect.signature(Bus.subscribe).parameters.values())[1:]
    assert [f"{option.name}={option.default!r}" for option in options[1:]] == [
        "handler=None",
        "name=None",
        "mode='group'",
        "concurrency=None",
        "ordered=False",
        "retry=None",
        "give_up_on=()",
        "timeout=None",
        "start=None",
        "where=None",
    ]
    assert all(option.kind is option.KEYWORD_ONLY for option in options[2:])


# --- topics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "error", "message"),
    [
        ("test.thing.hapened", UnknownTopic, "did you mean 'test.thing.happened'?"),
        ("test.th*", InvalidTopic, "invalid topic name 'test.th*'"),
        ("test..happened", InvalidTopic, "invalid topic name 'test..happened'"),
        ("", InvalidTopic, "an empty topic pattern matches nothing; '#' matches every topic"),
        (None, InvalidTopic, "a topic is a Topic or the name of one, got None"),
        (Happened, InvalidTopic, "a topic is a Topic or the name of one, got a builtins.type"),
        (TopicPattern("test.#"), InvalidTopic, "a topic is a Topic or the name of one"),
    ],
)
async def test_bad_topics(topic: Any, error: type[Exception], message: str) -> None:
    """A topic that is unknown, or is none, is refused with what to write instead."""
    async with running_bus() as bus:
        await bus.publish(HAPPENED, happened())
        with pytest.raises(error) as caught:
            bus.subscribe(topic, ignore, name="bad")
    assert message in str(caught.value)


async def test_patterns_need_no_known_topic() -> None:
    """A pattern may be subscribed before any topic that it covers is known."""
    received = Collecting()
    async with running_bus() as bus:
        bus.subscribe("quite.#", received.collect, name="early")
        await bus.publish(Topic("quite.new.happened", Happened), happened(1))
        await bus.drain()
    assert received.numbers == [1]


# --- names ------------------------------------------------------------------------------------------------


async def test_default_names() -> None:
    """In process the name defaults to the handler's qualified name, made unique by a number."""
    async with running_bus() as bus:

        async def local(event: Event) -> None: ...

        names = [
            bus.subscribe(HAPPENED, ignore).name,
            bus.subscribe(HAPPENED, ignore).name,
            bus.subscribe(HAPPENED, ignore).name,
            bus.subscribe(OTHER, ignore).name,
            bus.subscribe(HAPPENED, local).name,
            bus.subscribe(HAPPENED, lambda event: None).name,
            bus.subscribe(HAPPENED, Collecting().collect).name,
            bus.subscribe(HAPPENED, functools.partial(ignore)).name,
            bus.subscribe(HAPPENED, Mock(return_value=None)).name,
        ]
    assert names == [
        "support.handlers.ignore",
        "support.handlers.ignore-2",
        "support.handlers.ignore-3",
        "support.handlers.ignore",
        f"{__name__}.test_default_names.local",
        f"{__name__}.test_default_names.lambda",
        "support.handlers.Collecting.collect",
        "support.handlers.ignore-4",
        "unittest.mock.Mock",
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("test.thing.happened", "test.thing.happened"),
        ("test.thing.happened", "test.#"),
        ("test.*.happened", "test.thing.*"),
        ("#", "a.b"),
    ],
)
async def test_duplicate_names(first: str, second: str) -> None:
    """Two subscriptions of one name on overlapping topics are an error that names both topics."""
    async with running_bus(strict_topics=False) as bus:
        bus.subscribe(first, ignore, name="audit")
        with pytest.raises(DuplicateSubscription) as caught:
            bus.subscribe(second, ignore, name="audit")
        bus.subscribe(second, ignore, name="other")
    assert f"a subscription named 'audit' already listens to '{first}', which overlaps '{second}'" in str(
        caught.value
    )


async def test_same_handler_many_times() -> None:
    """One handler may have any number of subscriptions."""
    received = Collecting()
    async with running_bus() as bus:
        for _ in range(100):
            bus.subscribe(HAPPENED, received.collect)
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
    assert received.numbers == [1] * 100


@pytest.mark.parametrize(
    ("first", "second"), [(HAPPENED, "test.#"), ("test.#", HAPPENED), ("test.*.happened", "test.#")]
)
async def test_one_handler_on_overlapping_topics(first: Any, second: Any) -> None:
    """A handler that would get an event twice needs a name for its second subscription, which says so."""
    received = Collecting()
    async with running_bus() as bus:
        bus.subscribe(first, received.collect)
        with pytest.raises(DuplicateSubscription, match="would get events twice; if that is intended, give"):
            bus.subscribe(second, received.collect)
        again = bus.subscribe(second, received.collect, name="again")
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert received.numbers == [1, 1]
        await again.unsubscribe()
        await bus.unsubscribe(first, received.collect)
        bus.subscribe(second, received.collect)


def test_the_decorator_needs_its_topic() -> None:
    """`@bus.subscribe` without parentheses says at once what is missing, instead of subscribing nothing."""
    with pytest.raises(
        InvalidTopic, match=r"got the function '.*handle'; as a decorator write @bus.subscribe\("
    ):

        @make_bus().subscribe  # type: ignore[arg-type]
        async def handle(event: Happened) -> None: ...

    with pytest.raises(InvalidTopic, match="a topic is a Topic or the name of one, got None"):
        make_bus().subscribe(None)  # type: ignore[call-overload]


@event
class Elsewhere(Event):
    """An event of another topic."""


class Taking:
    async def method(self, event: Elsewhere) -> None: ...

    async def __call__(self, event: Elsewhere) -> None: ...


async def takes_elsewhere(event: Elsewhere, delivery: Delivery | None = None) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [takes_elsewhere, Taking().method, Taking(), functools.partial(takes_elsewhere, delivery=None)],
    ids=["function", "method", "object", "partial"],
)
def test_a_handler_of_another_event_is_refused(handler: Any) -> None:
    """A handler that is annotated to take events of another class than the topic's is a mistake."""
    bus = make_bus()
    with pytest.raises(InvalidHandler, match=r"takes Elsewhere, and the topic .* carries Happened"):
        bus.subscribe(HAPPENED, handler)
    bus.subscribe("test.#", handler)  # a pattern may carry any


@pytest.mark.parametrize("annotation", [Event, Happened, "Unknown", "Happened | Elsewhere", Any, None])
def test_other_annotations_are_no_mistake(annotation: Any) -> None:
    """A base class, a union, or what cannot be resolved is left to type checkers."""

    async def handle(event) -> None: ...  # type: ignore[no-untyped-def]

    handle.__annotations__["event"] = annotation
    assert make_bus().subscribe(HAPPENED, handle).topic == HAPPENED.name


class Selects:
    async def __call__(self, event: Event) -> bool:
        return False


async def selects(event: Event, number: int = 0) -> bool:
    return False


@pytest.mark.parametrize("where", [selects, Selects(), functools.partial(selects, number=1)])
def test_an_asynchronous_filter_is_refused(where: Any) -> None:
    """The coroutine of an asynchronous filter would always be true."""
    with pytest.raises(InvalidHandler, match="where takes a plain function"):
        make_bus().subscribe(HAPPENED, ignore, where=where)


async def test_a_filter_that_returns_a_coroutine_lets_nothing_through() -> None:
    """A fault that subscribe cannot see is a failure at the first event, with a dead letter that says why."""
    received = Collecting()
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, received.collect, where=lambda event: selects(event))  # type: ignore[arg-type, return-value]
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    assert received.numbers == []
    assert "where= returned an awaitable" in letter.attempts[0].error


class Projection:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @functools.singledispatchmethod
    async def on(self, event: Event) -> None:
        self.seen.append("other")

    @on.register
    async def _(self, event: Happened) -> None:
        self.seen.append("happened")


async def test_a_bound_singledispatchmethod() -> None:
    """A method that dispatches by the class of the event is a handler like any other, on the loop."""
    projection = Projection()
    async with running_bus() as bus:
        bus.subscribe("test.#", projection.on)
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert bus.threads_at_work == 0
    assert projection.seen == ["happened"]


async def test_one_name_on_topics_apart() -> None:
    """Topics that do not overlap may have subscriptions of one name."""
    received = Collecting()
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, received.collect, name="same")
        bus.subscribe(OTHER, received.collect, name="same")
        await bus.publish(HAPPENED, happened(1))
        await bus.publish(OTHER, happened(2))
        await bus.drain()
        assert [subscription.state.handled for subscription in bus.subscriptions] == [1, 1]
    assert sorted(received.numbers) == [1, 2]


async def test_a_name_is_free_again() -> None:
    """After it was unsubscribed, a name can be used again."""
    async with running_bus() as bus:
        subscription = bus.subscribe(HAPPENED, ignore, name="audit")
        await subscription.unsubscribe()
        bus.subscribe("test.#", ignore, name="audit")
        assert [(each.name, each.topic) for each in bus.subscriptions] == [("audit", "test.#")]


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".a", "ä", "a/b", "a" * 201, 5, b"a"])
def test_invalid_names(name: Any) -> None:
    """A name has 1 to 200 letters, digits and a few signs, so that every adapter can carry it."""
    with pytest.raises(InvalidHandler, match="invalid subscription name"):
        make_bus().subscribe(HAPPENED, ignore, name=name)


@pytest.mark.parametrize("name", ["a", "welcome-mail", "Welcome_Mail.v2:eu", "a" * 200, "7"])
def test_valid_names(name: str) -> None:
    """Names as people choose them are accepted as they are."""
    assert make_bus().subscribe(HAPPENED, ignore, name=name).name == name


def test_names_on_a_durable_adapter() -> None:
    """On a durable adapter a name is required: it names the group that outlives the process."""
    adapter = MemoryWith("store", Features(durable=True, groups=True))
    bus = make_bus(plugins=[adapter_plugin(adapter)], adapter="store")
    with pytest.raises(InvalidHandler, match="needs a name=: on the durable adapter 'store'"):
        bus.subscribe(HAPPENED, ignore)
    assert bus.subscribe(HAPPENED, ignore, name="mail").name == "mail"


# --- options ----------------------------------------------------------------------------------------------


async def _async_where(event: Event) -> bool:
    return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode must be 'group' or 'broadcast', got 'both'"),
        ({"mode": None}, "mode must be"),
        ({"concurrency": 0}, "concurrency must be an int of at least 1, got 0"),
        ({"concurrency": True}, "concurrency must be an int"),
        ({"concurrency": 1.5}, "concurrency must be an int"),
        ({"concurrency": "2"}, "concurrency must be an int"),
        ({"ordered": "yes"}, "ordered must be True or False, got 'yes'"),
        ({"ordered": None}, "ordered must be"),
        ({"retry": 3}, "retry takes a retry policy such as ExponentialRetry(...), got 3"),
        ({"retry": ExponentialRetry}, "retry takes a retry policy such as"),
        ({"give_up_on": ValueError()}, "give_up_on takes exception classes, got ValueError()"),
        ({"give_up_on": [ValueError, int]}, "give_up_on takes exception classes, got <class 'int'>"),
        ({"give_up_on": "ValueError"}, "give_up_on takes exception classes, got 'ValueError'"),
        ({"give_up_on": None}, "give_up_on takes exception classes, got None"),
        ({"timeout": 0}, "timeout must be a positive number of seconds or a timedelta, got 0"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"timeout": "5s"}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("inf")}, "timeout must be"),
        ({"timeout": timedelta(0)}, "timeout must be"),
        ({"start": "now"}, "start must be None, 'earliest' or 'latest', got 'now'"),
        ({"where": "number > 1"}, "where takes a function of the event, got 'number > 1'"),
        (
            {"where": _async_where},
            "where takes a plain function: the coroutine of an async one is always true",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    """An option with a value that makes no sense is refused at once, in both forms."""
    bus = make_bus()
    with pytest.raises(InvalidHandler) as caught:
        bus.subscribe(HAPPENED, ignore, **options)
    assert message in str(caught.value)
    with pytest.raises(InvalidHandler):
        bus.subscribe(HAPPENED, **options)


def test_unknown_option() -> None:
    """An option that does not exist is a TypeError of Python."""
    with pytest.raises(TypeError, match="concurency"):
        make_bus().subscribe(HAPPENED, ignore, concurency=2)  # type: ignore[call-overload]  # pyright: ignore


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 1},
        {"timeout": timedelta(seconds=1)},
        {"give_up_on": ValueError},
        {"give_up_on": [ValueError, KeyError]},
        {"give_up_on": iter([ValueError])},
        {"retry": NoRetry()},
        {"retry": FixedRetry(attempts=2)},
        {"concurrency": 1, "ordered": True, "mode": "broadcast", "start": "latest"},
        {"name": None, "retry": None, "timeout": None, "concurrency": None, "where": None, "start": None},
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_valid_options(options: dict[str, Any]) -> None:
    """Every option may be given in each of its forms."""
    received = Collecting()
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, received.collect, **options)
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
    assert received.numbers == [1]


async def test_where() -> None:
    """A subscription with ``where`` handles the events that it selects; others count as skipped."""
    received, everything = Collecting(), Collecting()
    async with running_bus() as bus:
        odd = bus.subscribe(HAPPENED, received.collect, where=lambda event: event.number % 2 == 1)
        bus.subscribe(HAPPENED, everything.collect)
        for number in range(6):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert (odd.state.handled, odd.state.skipped) == (3, 3)
    assert received.numbers == [1, 3, 5]
    assert everything.numbers == list(range(6))


async def test_concurrency() -> None:
    """``concurrency`` bounds how many handlers of a subscription run at once; others are not held up."""
    running, most = 0, 0
    release = asyncio.Event()
    others = Collecting()

    async def slow(event: Happened) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    async with running_bus(worker_pool_size=5) as bus:
        subscription = bus.subscribe(HAPPENED, slow, concurrency=2)
        bus.subscribe(OTHER, others.collect)
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await bus.publish(OTHER, happened(1))
        await until(lambda: others.numbers == [1] and running == 2)
        assert (subscription.state.running, subscription.state.queued) == (2, 8)
        release.set()
        await bus.drain()
        assert subscription.state.handled == 10
    assert most == 2


# --- what the adapter cannot do ---------------------------------------------------------------------------


def limited(**features: Any) -> MemoryWith:
    return MemoryWith("limited", Features(in_process=True, **features))


async def test_unsupported_at_start() -> None:
    """Starting is refused with one error that lists everything the adapter cannot do; nothing was started."""
    bus = make_bus(plugins=[adapter_plugin(limited())], adapter="limited")
    bus.subscribe(HAPPENED, ignore, name="one", ordered=True)
    bus.subscribe(HAPPENED, ignore, name="two", mode="broadcast", start="earliest")
    with pytest.raises(UnsupportedFeature) as caught:
        await bus.start()
    assert caught.value.mismatches == (
        "subscription 'one' to 'test.thing.happened' needs ordered=True",
        "subscription 'one' to 'test.thing.happened' needs mode='group'",
        "subscription 'two' to 'test.thing.happened' needs mode='broadcast'",
        "subscription 'two' to 'test.thing.happened' needs start='earliest', "
        "and nothing is retained to replay",
    )
    assert str(caught.value).startswith(
        "the adapter 'limited' cannot do what is asked for:\n  - subscription"
    )
    with pytest.raises(BusNotStarted):
        await bus.publish(HAPPENED, happened())


async def test_an_adapter_says_what_to_do() -> None:
    """The advice of an adapter for unmet needs is at the end of the error."""
    bus = make_bus(plugins=[adapter_plugin(limited(remedy="use another mode"))], adapter="limited")
    bus.subscribe(HAPPENED, ignore, name="one")
    with pytest.raises(UnsupportedFeature, match=r"needs mode='group'\nuse another mode$") as caught:
        await bus.start()
    assert caught.value.remedy == "use another mode"


@pytest.mark.parametrize(
    "options",
    [{"ordered": True}, {"mode": "broadcast"}, {"start": "earliest"}],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_unsupported_later(options: dict[str, Any]) -> None:
    """On a running bus a subscription that does not fit is refused at once, and leaves nothing behind."""
    async with running_bus(plugins=[adapter_plugin(limited(groups=True))], adapter="limited") as bus:
        with pytest.raises(UnsupportedFeature):
            bus.subscribe(HAPPENED, ignore, name="one", **options)
        assert bus.subscriptions == ()
        bus.subscribe(HAPPENED, ignore, name="one")


async def test_unsupported_while_starting() -> None:
    """A subscription made while the bus is starting is compared with the adapter, too."""
    starting, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryWith):
        async def start(self) -> None:
            starting.set()
            await go_on.wait()

    bus = make_bus(
        plugins=[adapter_plugin(Slow("slow", Features(groups=True, in_process=True)))], adapter="slow"
    )
    start = asyncio.create_task(bus.start())
    await starting.wait()
    with pytest.raises(UnsupportedFeature):
        bus.subscribe(HAPPENED, ignore, ordered=True)
    received = Collecting()
    bus.subscribe(HAPPENED, received.collect)
    go_on.set()
    await start
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
    assert received.numbers == [1]


async def test_memory_replays_nothing() -> None:
    """The memory adapter retains nothing, so that ``start="earliest"`` is refused."""
    async with running_bus() as bus:
        with pytest.raises(UnsupportedFeature, match="nothing is retained to replay"):
            bus.subscribe(HAPPENED, ignore, start="earliest")


class Changing:
    """A handler whose hash changes, as that of a mutable record does."""

    def __init__(self) -> None:
        self.received: list[Event] = []

    def __hash__(self) -> int:
        return len(self.received)

    def __eq__(self, other: object) -> bool:
        return self is other

    async def __call__(self, event: Event) -> None:
        self.received.append(event)


async def test_a_handler_whose_hash_changes_can_leave() -> None:
    """A handler that is another one by its hash later is unsubscribed like any other."""
    handler = Changing()
    async with running_bus() as bus:
        subscription = bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        await subscription.unsubscribe()
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
        assert len(handler.received) == 1
        assert bus.subscriptions == ()


class Record:
    """A handler that is compared by what it holds, and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.received: list[Event] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.received == other.received

    async def __call__(self, event: Event) -> None:
        self.received.append(event)


async def test_a_handler_that_cannot_be_hashed() -> None:
    """It is known again like any other: at topics and patterns that overlap, and when it leaves."""
    handler = Record()
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, handler)
        bus.subscribe("test.other.*", handler)
        with pytest.raises(DuplicateSubscription, match="would get events twice"):
            bus.subscribe("test.thing.#", handler)
        await bus.unsubscribe(HAPPENED, handler)
        bus.subscribe("test.thing.#", handler)
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert len(handler.received) == 1

"""Observers: their arguments, their selection in the configuration, and that they change nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import pytest

from bus_core import (
    AttemptFailure,
    Bus,
    BusNotStarted,
    ConfigError,
    Delivery,
    EventLoss,
    Factory,
    FixedRetry,
    Middleware,
    ObservedBus,
    Observer,
    PluginError,
    PublishUncertain,
    SubscriptionBacklog,
    SubscriptionSpec,
    UnknownPlugin,
    check_config,
    open_bus,
)
from promenade_bus_testing import VirtualClock
from support.buses import (
    HAPPENED,
    OTHER,
    Happened,
    close_now,
    happened,
    make_bus,
    running_bus,
    state_of,
    until,
)
from support.handlers import listen
from support.inline_plugins import noting, plugin, ready_made
from support.remote import CountingRemoteAdapter, RemoteAdapter, Server, running_remote_bus

either_way = pytest.mark.parametrize("serialize", [False, True], ids=["objects", "serialized"])


def watched_bus(observer: Observer, clock: VirtualClock | None = None, **settings: Any) -> Bus:
    """A bus whose configuration selects one observer."""
    offering = plugin(observers={"watcher": ready_made(observer)})
    return make_bus(clock, plugins=[offering], observers=["watcher"], **settings)


def notes_of_timing() -> tuple[list[tuple[str, float, str]], Observer]:
    """An observer of durations, and where it notes them: subscription, seconds, and the error's class."""
    notes: list[tuple[str, float, str]] = []

    def timing(spec: SubscriptionSpec) -> Callable[[float, BaseException | None], None]:
        return lambda seconds, error: notes.append((spec.name, seconds, type(error).__name__))

    return notes, Observer(timing=timing)


# --- selecting them ---------------------------------------------------------------------------------------


def test_a_name_that_nobody_offers_is_an_error_with_the_nearest() -> None:
    """An observer that is not there is told like any other plugin, with its path, kind and near names."""
    offering = plugin(observers={"watcher": ready_made(Observer())})
    with pytest.raises(UnknownPlugin, match=r"unknown observer 'watchr'; did you mean 'watcher'\?") as caught:
        make_bus(plugins=[offering], observers=["watchr"])
    assert (caught.value.kind, caught.value.where) == ("observer", "$.bus.observers[0]")


def test_a_name_that_is_listed_twice_is_a_fault() -> None:
    """One observer twice would count everything twice."""
    with pytest.raises(ConfigError, match=r"the observer 'a' is listed 2 times @ \$\.bus\.observers"):
        make_bus(observers=["a", "b", {"a": {}}])


def test_options_are_typed_and_faults_have_a_path() -> None:
    """The options of an observer are read strictly; faults stand beside those of everything else."""

    @attrs.frozen(kw_only=True)
    class Options:
        every: int = 1

    built: list[Options] = []

    def build(options: Options, _context: Any) -> Observer:
        built.append(options)
        return Observer()

    offering = plugin(observers={"watcher": Factory(Options, build)})
    config = {"bus": {"adapter": "memory", "observers": [{"watcher": {"evry": 2}}]}}
    assert check_config(config, plugins=[offering]) == [
        "unknown key 'evry', did you mean 'every'? @ $.bus.observers[0].watcher"
    ]
    assert not built
    make_bus(plugins=[offering], observers=[{"watcher": {"every": 3}}])
    assert built == [Options(every=3)]


def test_one_that_cannot_be_built_is_named() -> None:
    """An error of a factory names the observer, the plugin and the place in the configuration."""

    @attrs.frozen
    class Options:
        pass

    def build(_options: Options, _context: Any) -> Observer:
        raise LookupError("no exporter")

    with pytest.raises(
        PluginError, match=r"the observer 'watcher' of .* cannot be built: LookupError: no exp"
    ):
        make_bus(plugins=[plugin(observers={"watcher": Factory(Options, build)})], observers=["watcher"])


def test_a_factory_is_given_the_adapter() -> None:
    """As a health probe's, an observer's factory knows the adapter of the bus."""

    @attrs.frozen
    class Options:
        pass

    adapters: list[Any] = []

    def build(_options: Options, context: Any) -> Observer:
        adapters.append(context.adapter)
        return Observer()

    bus = make_bus(plugins=[plugin(observers={"watcher": Factory(Options, build)})], observers=["watcher"])
    assert adapters == [bus.adapter]
    assert [*bus.parts.observers] == ["watcher"]


# --- middleware -------------------------------------------------------------------------------------------


@either_way
async def test_middleware_is_made_once_for_each_topic_and_subscription(serialize: bool) -> None:
    """An observer makes its middleware for a subscription and for a topic once, and sees every event."""
    made: list[str] = []
    notes: list[str] = []

    def consume(spec: SubscriptionSpec) -> Middleware:
        made.append(f"consume {spec.name} of {spec.topic}")
        return noting(f"consume {spec.name}", notes)

    def publish(topic: str) -> Middleware:
        made.append(f"publish {topic}")
        return noting(f"publish {topic}", notes)

    bus = watched_bus(Observer(consume=consume, publish=publish), memory={"serialize": serialize})
    listen(bus, name="before")
    async with bus:
        after = listen(bus, OTHER, name="after")
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        await bus.publish_many([(OTHER, happened(1)), (OTHER, happened(2))])
        await bus.drain()
    assert made == [
        "consume before of test.thing.happened",
        "consume after of test.other.happened",
        "publish test.thing.happened",
        "publish test.other.happened",
    ]
    assert notes.count("publish test.thing.happened out") == notes.count("consume before out") == 3
    assert notes.count("publish test.other.happened out") == notes.count("consume after out") == 2
    assert [event.number for event in after] == [1, 2]


async def test_an_observer_may_look_at_some_only() -> None:
    """Where an observer gives None for a subscription or a topic, events pass it by."""
    notes: list[str] = []

    def consume(spec: SubscriptionSpec) -> Middleware | None:
        return noting("consume", notes) if spec.name == "seen" else None

    bus = watched_bus(
        Observer(
            consume=consume,
            publish=lambda topic: noting("publish", notes) if topic == OTHER.name else None,
            timing=lambda _spec: None,
        )
    )
    seen, unseen = listen(bus, name="seen"), listen(bus, OTHER, name="unseen")
    async with bus:
        await bus.publish(HAPPENED, happened())
        await bus.publish(OTHER, happened())
        await bus.drain()
    assert (len(seen), len(unseen)) == (1, 1)
    assert notes == ["publish in", "publish out", "consume in", "consume out"]


async def test_what_a_publish_middleware_of_an_observer_sees_fails_as_ever() -> None:
    """A publish that is refused is seen, and raised to the caller."""
    errors: list[str] = []

    def publish(_topic: str) -> Middleware:
        def middleware(handler: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
            async def watch(envelope: Any) -> None:
                try:
                    await handler(envelope)
                except BaseException as error:
                    errors.append(type(error).__name__)
                    raise

            return watch

        return middleware

    server = Server()

    def gone(_messages: Any) -> None:
        raise ConnectionError

    server.faults["publish"] = gone
    offering = plugin(observers={"watcher": ready_made(Observer(publish=publish))})
    async with running_remote_bus(server, plugins=[offering], observers=["watcher"]) as bus:
        with pytest.raises(PublishUncertain):
            await bus.publish(HAPPENED, happened())
    assert errors == ["PublishUncertain"]


# --- timing -----------------------------------------------------------------------------------------------


@either_way
async def test_each_call_of_a_handler_is_timed(virtual_clock: VirtualClock, serialize: bool) -> None:
    """The seconds of each attempt and its error are told, of handlers that take a delivery as well."""
    notes, observer = notes_of_timing()
    bus = watched_bus(observer, virtual_clock, memory={"serialize": serialize})

    @bus.subscribe(HAPPENED, name="slow", retry=FixedRetry(attempts=2, delay=1))
    async def slow(event: Happened, delivery: Delivery) -> None:
        await asyncio.sleep(0)
        if delivery.attempt == 1:
            raise ValueError("first")

    @bus.subscribe(HAPPENED, name="quick")
    async def quick(event: Happened) -> None:
        pass

    async with bus:
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(5)
        await bus.drain()
    assert sorted(notes) == [
        ("quick", 0.0, "NoneType"),
        ("slow", 0.0, "NoneType"),
        ("slow", 0.0, "ValueError"),
    ]


async def test_the_seconds_are_those_that_the_handler_took(virtual_clock: VirtualClock) -> None:
    """The time that is told is that between the call of the handler and its end, on the bus's clock."""
    notes, observer = notes_of_timing()
    bus = watched_bus(observer, virtual_clock)
    begun = asyncio.Event()
    gate = asyncio.Event()

    @bus.subscribe(HAPPENED, name="waits")
    async def waits(event: Happened) -> None:
        begun.set()
        await gate.wait()

    async with bus:
        await bus.publish(HAPPENED, happened())
        await begun.wait()
        await virtual_clock.advance(2.5)
        gate.set()
        await bus.drain()
    assert notes == [("waits", 2.5, "NoneType")]


async def test_a_time_limit_and_a_thread_are_timed_too() -> None:
    """A handler that is cancelled for its time limit, and one that runs in a thread, are told as they end."""
    notes, observer = notes_of_timing()
    bus = watched_bus(observer, retry_attempts=1)
    threads: list[str] = []

    @bus.subscribe(HAPPENED, name="late", timeout=0.01)
    async def late(event: Happened) -> None:
        await asyncio.Event().wait()

    @bus.subscribe(HAPPENED, name="threaded")
    def threaded(event: Happened) -> None:
        threads.append(threading.current_thread().name)

    async with bus:
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert [(name, error) for name, _, error in sorted(notes)] == [
        ("late", "HandlerTimeout"),
        ("threaded", "NoneType"),
    ]
    assert sorted(notes)[0][1] >= 0.01
    assert threads[0].startswith("promenade-handler")


async def test_what_where_turns_away_is_not_timed() -> None:
    """An event that no handler is called with takes no time."""
    notes, observer = notes_of_timing()
    bus = watched_bus(observer)

    @bus.subscribe(HAPPENED, name="odd", where=lambda event: event.number % 2 == 1)
    async def odd(event: Happened) -> None:
        pass

    async with bus:
        for number in range(4):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert state_of(bus).skipped == 2
    assert [name for name, _, _ in notes] == ["odd", "odd"]


async def test_observers_that_raise_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is logged by class and place; events are handled and retried as ever."""
    others: list[str] = []

    def broken(_seconds: float, _error: BaseException | None) -> None:
        raise SystemExit("secret")

    def failed(_failure: AttemptFailure) -> None:
        raise KeyError("secret")

    def timing(_spec: SubscriptionSpec) -> Callable[[float, BaseException | None], None]:
        return lambda _seconds, error: others.append(type(error).__name__)

    first, second = Observer(timing=lambda _spec: broken, failed=failed), Observer(timing=timing)
    bus = make_bus(
        plugins=[plugin(observers={"first": ready_made(first), "second": ready_made(second)})],
        observers=["first", "second"],
        retry_attempts=1,
    )

    @bus.subscribe(HAPPENED, name="one")
    async def one(event: Happened) -> None:
        if event.number:
            raise ValueError

    async with bus:
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        state = state_of(bus)
        assert (state.handled, state.failed_attempts, state.dead_lettered) == (1, 1, 1)
        assert bus.state().lost == 0
    assert others == ["NoneType", "ValueError"]
    lines = [record.getMessage() for record in caplog.records if "an observer" in record.getMessage()]
    assert [line.partition(" at ")[0] for line in lines] == [
        "an observer of durations raised SystemExit",
        "an observer of durations raised SystemExit",
        "an observer of failed attempts raised KeyError",
    ]
    assert "secret" not in caplog.text


async def test_a_lone_observer_of_durations_that_raises_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where it is the only one, nothing that it raises becomes the outcome of the attempt."""

    def broken(_seconds: float, _error: BaseException | None) -> None:
        raise SystemExit("secret")

    bus = watched_bus(Observer(timing=lambda _spec: broken), retry_attempts=1)

    @bus.subscribe(HAPPENED, name="one")
    async def one(event: Happened) -> None:
        if event.number:
            raise ValueError("its own")

    async with bus:
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert (state_of(bus).handled, state_of(bus).dead_lettered) == (1, 1)
        [letter] = await bus.dead_letters.list()
        assert letter.attempts[0].error == "ValueError: its own"
    assert caplog.text.count("an observer of durations raised SystemExit") == 2


# --- failures and losses ----------------------------------------------------------------------------------


async def test_a_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event whose dead letter cannot be stored is told with its ids and the class of the error."""
    losses: list[EventLoss] = []
    failures: list[AttemptFailure] = []
    bus = watched_bus(Observer(lost=losses.append, failed=failures.append), retry_attempts=1)

    def bury(*_arguments: Any) -> None:
        raise OSError("disk full of secrets")

    @bus.subscribe(HAPPENED, name="unlucky")
    async def unlucky(event: Happened) -> None:
        raise ValueError

    async with bus:
        monkeypatch.setattr(bus.adapter, "bury", bury)
        event = happened()
        await bus.publish(HAPPENED, event)
        await until(lambda: bus.state().lost == 1)
    assert losses == [
        EventLoss(
            topic=HAPPENED.name,
            subscription="unlucky",
            event_id=str(event.event_id),
            reason="the dead-letter store failed: OSError",
        )
    ]
    assert [failure.action for failure in failures] == ["dead_letter"]


async def test_an_observer_of_losses_that_raises_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is counted once, and the others are told."""
    losses: list[EventLoss] = []

    def broken(_loss: EventLoss) -> None:
        raise RuntimeError("secret")

    observers = {
        "first": ready_made(Observer(lost=broken)),
        "second": ready_made(Observer(lost=losses.append)),
    }
    bus = make_bus(plugins=[plugin(observers=observers)], observers=["first", "second"], retry_attempts=1)

    @bus.subscribe(HAPPENED, name="unlucky")
    async def unlucky(event: Happened) -> None:
        raise ValueError

    def bury(*_arguments: Any) -> None:
        raise OSError

    async with bus:
        monkeypatch.setattr(bus.adapter, "bury", bury)
        await bus.publish(HAPPENED, happened())
        await until(lambda: bus.state().unsettled == 0)
        assert bus.state().lost == 1
    assert len(losses) == 1
    assert "an observer of losses raised RuntimeError" in caplog.text


# --- start, close, and what it may ask --------------------------------------------------------------------


async def test_it_starts_after_the_adapter_and_closes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an observer is at work, it may ask the adapter; what it is given is the bus."""
    calls: list[str] = []
    given: list[ObservedBus] = []

    async def start(bus: ObservedBus) -> None:
        given.append(bus)
        calls.append("observer started")

    async def close() -> None:
        calls.append("observer closed")

    bus = watched_bus(Observer(start=start, close=close))

    def spy(name: str) -> None:
        original: Callable[[], Awaitable[None]] = getattr(bus.adapter, name)

        async def spied() -> None:
            calls.append(f"adapter {name}")
            await original()

        monkeypatch.setattr(bus.adapter, name, spied)

    spy("start")
    spy("close")
    received = listen(bus)
    async with bus:
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        (watched,) = given
        assert watched.service == "tests"
        assert watched.adapter is bus.adapter
        assert watched.published() == {HAPPENED.name: 1}
        assert watched.state().subscriptions[0].handled == len(received) == 1
    assert calls == ["adapter start", "observer started", "observer closed", "adapter close"]


async def test_one_that_cannot_start_lets_the_bus_not_start() -> None:
    """The bus closes what it had started, says why, and may be started again."""
    calls: list[str] = []

    async def start(_bus: ObservedBus) -> None:
        calls.append("start")
        if len(calls) < 3:
            raise OSError("no port")

    async def note_start(_bus: ObservedBus) -> None:
        calls.append("other start")

    async def note_close() -> None:
        calls.append("other close")

    other = Observer(start=note_start, close=note_close)
    offering = plugin(observers={"other": ready_made(other), "watcher": ready_made(Observer(start=start))})
    bus = make_bus(plugins=[offering], observers=["other", "watcher"])
    with pytest.raises(OSError, match="no port"):
        await bus.start()
    assert calls == ["other start", "start", "other close"]
    assert bus.status == "not started"
    await bus.start()
    await close_now(bus)


async def test_an_observer_that_does_not_close_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Closing the bus ends all the same, and what an observer raises then is logged."""

    async def close() -> None:
        raise OSError("gone")

    bus = watched_bus(Observer(close=close))
    async with bus:
        pass
    assert bus.status == "closed"
    assert "closing" in caplog.text
    assert "gone" in caplog.text


@either_way
async def test_the_backlog_in_process_is_what_the_bus_holds(serialize: bool) -> None:
    """Events that are queued, running or waiting for a retry count; handled ones do not."""
    gate = asyncio.Event()
    async with running_bus(memory={"serialize": serialize}, worker_pool_size=1) as bus:

        @bus.subscribe(HAPPENED, name="slow", retry=FixedRetry(attempts=2, delay=0.2))
        async def slow(event: Happened) -> None:
            if event.number == 0:
                await gate.wait()
            raise ValueError

        listen(bus, OTHER, name="idle")
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        assert await bus.backlog() == [
            SubscriptionBacklog(name="slow", topic=HAPPENED.name, events=3),
            SubscriptionBacklog(name="idle", topic=OTHER.name, events=0),
        ]
        gate.set()
        await until(lambda: state_of(bus, "slow").waiting_retries == 3)
        assert [each.events for each in await bus.backlog()] == [3, 0]
        await until(lambda: state_of(bus, "slow").dead_lettered == 3)
        assert [each.events for each in await bus.backlog()] == [0, 0]


@pytest.mark.parametrize("counting", [False, True], ids=["one by one", "counting"])
async def test_the_backlog_outside_is_what_the_adapter_says(counting: bool) -> None:
    """An adapter outside of the process tells what all instances together have not settled."""
    server = Server()
    gate = asyncio.Event()
    adapter = CountingRemoteAdapter if counting else RemoteAdapter
    async with running_remote_bus(server, adapter=adapter) as bus:
        for number in range(12):

            @bus.subscribe(HAPPENED, name=f"slow-{number}")
            async def slow(event: Happened) -> None:
                await gate.wait()

        for number in range(2):
            await bus.publish(HAPPENED, happened(number))
        counted = await bus.backlog()
        assert [each.name for each in counted] == [f"slow-{number}" for number in range(12)]
        assert {each.events for each in counted} == {2}
        gate.set()
        await bus.drain()
        assert {each.events for each in await bus.backlog()} == {0}


async def test_the_backlog_of_a_bus_that_is_not_open_is_an_error() -> None:
    """Before start there is no adapter to ask."""
    bus = make_bus()
    with pytest.raises(BusNotStarted):
        await bus.backlog()


async def test_without_observers_nothing_is_wrapped() -> None:
    """With none selected a plain handler is called as it is: the port of the queue leads to it."""
    bus, watched = make_bus(), watched_bus(Observer(failed=print, lost=print))
    for each in (bus, watched):
        received: list[Happened] = []

        async def handler(event: Happened, received: list[Happened] = received) -> None:
            received.append(event)

        subscription: Any = each.subscribe(HAPPENED, handler, name="plain")
        assert subscription._lane.port.call is handler


def test_observers_are_shown_in_the_settings() -> None:
    """The configuration keeps the observers with their options, in order."""
    observers: list[Any] = ["a", {"b": {"size": 3}}]
    offering = plugin(observers={name: ready_made(Observer()) for name in ("a",)})
    with pytest.raises(UnknownPlugin, match="unknown observer 'b'"):
        open_bus({"bus": {"adapter": "memory", "observers": observers}}, plugins=[offering])
    bus = make_bus(plugins=[offering], observers=["a"])
    shown: Mapping[str, Any] = {choice.name: choice.options for choice in bus.config.observers}
    assert shown == {"a": {}}

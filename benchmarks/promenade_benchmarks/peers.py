"""Other libraries that pass events within one process, and what each of them keeps.

A peer that is not installed, or does not run on this Python, is named with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from typing import Any, Final

import attrs

from promenade_benchmarks.segments import Contender
from promenade_benchmarks.subjects import PING, empty_handler

__all__ = ["BUS", "GUARANTEES", "PEERS", "QUEUE", "Guarantees", "Peer", "open_peers", "peer_versions"]

Publish = Callable[[int], Awaitable[None]]
"""Publishes so many events, and returns when all are handled."""

BODY: Final = {"aggregate_id": str(PING.aggregate_id)}
"""The payload for peers that take JSON, and no objects."""


@attrs.frozen
class Guarantees:
    """The guarantees of a library, once it is configured for them."""

    buffer: bool = False
    workers: bool = False
    isolation: bool = False
    retry: bool = False
    order: bool = False
    drain: bool = False

    def __str__(self) -> str:
        return ", ".join(name for name in GUARANTEES if getattr(self, name)) or "nothing"


GUARANTEES: Final = {
    "buffer": "a bounded buffer that publishers wait for",
    "workers": "a bounded number of handlers at once",
    "isolation": "a handler that fails disturbs neither the publisher nor other handlers",
    "retry": "a handler that failed is called again",
    "order": "events of one key are handled one after the other, while others go on",
    "drain": "one can wait until all that was published is handled",
}

BUS: Final = Guarantees(True, True, True, True, True, True)
QUEUE: Final = Guarantees(buffer=True, workers=True, drain=True)


@attrs.frozen
class Peer:
    """A library. ``open`` takes a number of handlers; ``deliveries`` are as many as fit a segment."""

    name: str
    distribution: str
    how: str
    guarantees: Guarantees
    deliveries: int
    open: Callable[[int], AbstractAsyncContextManager[Publish]]

    @property
    def title(self) -> str:
        return f"{self.distribution}: {self.how}"


def _sync_handler() -> Callable[[Any], None]:
    def handler(event: Any) -> None:
        pass

    return handler


@asynccontextmanager
async def _blinker(handlers: int) -> AsyncIterator[Publish]:
    signal: Any = import_module("blinker").Signal()
    for _ in range(handlers):
        signal.connect(empty_handler(), weak=False)

    async def publish(events: int) -> None:
        send = signal.send_async
        for event in repeat(PING, events):
            await send(event)

    yield publish


@asynccontextmanager
async def _pyee(handlers: int) -> AsyncIterator[Publish]:
    emitter: Any = import_module("pyee").EventEmitter()
    for _ in range(handlers):
        emitter.on("ping", _sync_handler())

    async def publish(events: int) -> None:
        emit = emitter.emit
        for event in repeat(PING, events):
            emit("ping", event)

    yield publish


@asynccontextmanager
async def _pyee_asyncio(handlers: int) -> AsyncIterator[Publish]:
    emitter: Any = import_module("pyee.asyncio").AsyncIOEventEmitter()
    for _ in range(handlers):
        emitter.on("ping", empty_handler())

    async def publish(events: int) -> None:
        emit = emitter.emit
        for event in repeat(PING, events):
            emit("ping", event)
        await emitter.wait_for_complete()

    yield publish


@asynccontextmanager
async def _psygnal(handlers: int) -> AsyncIterator[Publish]:
    signal: Any = import_module("psygnal").SignalInstance((object,))
    for _ in range(handlers):
        signal.connect(_sync_handler())

    async def publish(events: int) -> None:
        emit = signal.emit
        for event in repeat(PING, events):
            emit(event)

    yield publish


@asynccontextmanager
async def _faststream(handlers: int) -> AsyncIterator[Publish]:
    module: Any = import_module("faststream.redis")
    broker: Any = module.RedisBroker(logger=None, log_level=logging.CRITICAL)
    for _ in range(handlers):

        async def handler(body: dict[str, Any]) -> None:
            pass

        broker.subscriber("ping")(handler)

    async with module.TestRedisBroker(broker) as running:

        async def publish(events: int) -> None:
            for body in repeat(BODY, events):
                await running.publish(body, "ping")

        yield publish


@asynccontextmanager
async def _bubus(handlers: int) -> AsyncIterator[Publish]:
    module: Any = import_module("bubus")
    logging.getLogger("bubus").setLevel(logging.CRITICAL)
    kind: Any = type("Pinged", (module.BaseEvent,), {"__module__": __name__})
    bus: Any = module.EventBus(name=f"benchmark_{handlers}")
    for number in range(handlers):
        handler = empty_handler()
        handler.__name__ = f"handler_{number}"  # it warns of handlers of the same name
        bus.on(kind, handler)

    async def publish(events: int) -> None:
        for _ in range(events):
            bus.dispatch(kind())
        await bus.wait_until_idle()

    try:
        yield publish
    finally:
        await bus.stop(timeout=1, clear=True)


@asynccontextmanager
async def _taskiq(handlers: int) -> AsyncIterator[Publish]:
    broker: Any = import_module("taskiq").InMemoryBroker()
    tasks = [broker.register_task(empty_handler(), task_name=f"handler-{n}") for n in range(handlers)]
    await broker.startup()

    async def publish(events: int) -> None:
        for body in repeat(BODY, events):
            for task in tasks:
                await task.kiq(body)
        await broker.wait_all()

    try:
        yield publish
    finally:
        await broker.shutdown()


@asynccontextmanager
async def _dramatiq(handlers: int) -> AsyncIterator[Publish]:
    module: Any = import_module("dramatiq")
    broker: Any = import_module("dramatiq.brokers.stub").StubBroker()
    actors = [
        module.actor(_sync_handler(), broker=broker, actor_name=f"handler-{number}")
        for number in range(handlers)
    ]
    worker: Any = module.Worker(broker, worker_timeout=1_000)
    worker.start()

    async def publish(events: int) -> None:
        for body in repeat(BODY, events):
            for actor in actors:
                actor.send(body)
        broker.join(actors[0].queue_name)

    try:
        yield publish
    finally:
        worker.stop(timeout=5_000)


_INLINE: Final = Guarantees(drain=True)  # an event is handled when its publish returns

PEERS: Final = (
    Peer("blinker", "blinker", "send_async, handlers awaited inline", _INLINE, 5_000, _blinker),
    Peer("pyee", "pyee", "EventEmitter, sync handlers called inline", _INLINE, 5_000, _pyee),
    Peer(
        "pyee-asyncio",
        "pyee",
        "AsyncIOEventEmitter, a task per delivery",
        Guarantees(isolation=True, drain=True),
        1_000,
        _pyee_asyncio,
    ),
    Peer("psygnal", "psygnal", "sync handlers called inline", _INLINE, 5_000, _psygnal),
    Peer("faststream", "faststream", "in-memory test broker of Redis", _INLINE, 20, _faststream),
    Peer(
        "bubus",
        "bubus",
        "dispatch and wait_until_idle, with its history",
        Guarantees(workers=True, isolation=True, retry=True, order=True, drain=True),
        10,
        _bubus,
    ),
    Peer(
        "taskiq",
        "taskiq",
        "InMemoryBroker, a task per delivery",
        Guarantees(isolation=True, retry=True, drain=True),
        100,
        _taskiq,
    ),
    Peer(
        "dramatiq",
        "dramatiq",
        "StubBroker, a worker of 8 threads",
        Guarantees(workers=True, isolation=True, retry=True, drain=True),
        100,
        _dramatiq,
    ),
)


async def open_peers(stack: AsyncExitStack, handlers: int = 1) -> tuple[list[Contender], dict[str, str]]:
    """A contender for each peer that runs here, and the reason for each that does not."""
    contenders: list[Contender] = []
    absent: dict[str, str] = {}
    for peer in PEERS:
        try:
            publish = await stack.enter_async_context(peer.open(handlers))
            await publish(1)
        except ModuleNotFoundError as error:
            absent[peer.title] = f"not installed: {error}"
        except Exception as error:  # whatever it is, the others are measured
            absent[peer.title] = f"does not run on this Python: {type(error).__name__}: {error}"
        else:
            contenders.append(_contender(peer, publish, handlers))
    return contenders, absent


def _contender(peer: Peer, publish: Publish, handlers: int) -> Contender:
    events = max(1, peer.deliveries // handlers)
    return Contender(peer.name, peer.title, events * handlers, lambda: publish(events))


def peer_versions() -> dict[str, str]:
    """The installed peers by distribution."""
    found: dict[str, str] = {}
    for distribution in dict.fromkeys(peer.distribution for peer in PEERS):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found

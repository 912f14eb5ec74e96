"""Other libraries that pass events within one process, as many as are installed.

None of them keeps what the bus keeps (a bounded buffer, workers, retries, isolation, drain); the titles say
what they do instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from typing import Any

from promenade_benchmarks.segments import Contender
from promenade_benchmarks.subjects import PING, empty_handler

__all__ = ["installed_peers", "peer_versions"]

Segment = Callable[[], Awaitable[None]]


def _blinker(events: int, handlers: int) -> Segment:
    signal: Any = import_module("blinker").Signal()
    for _ in range(handlers):
        signal.connect(empty_handler(), weak=False)

    async def segment() -> None:
        send = signal.send_async
        for event in repeat(PING, events):
            await send(event)

    return segment


def _sync_handler() -> Callable[[Any], None]:
    def handler(event: Any) -> None:
        pass

    return handler


def _pyee(events: int, handlers: int) -> Segment:
    emitter: Any = import_module("pyee").EventEmitter()
    for _ in range(handlers):
        emitter.on("ping", _sync_handler())

    async def segment() -> None:
        emit = emitter.emit
        for event in repeat(PING, events):
            emit("ping", event)

    return segment


def _pyee_asyncio(events: int, handlers: int) -> Segment:
    emitter: Any = import_module("pyee.asyncio").AsyncIOEventEmitter()
    for _ in range(handlers):
        emitter.on("ping", empty_handler())

    async def segment() -> None:
        emit = emitter.emit
        for event in repeat(PING, events):
            emit("ping", event)
        await emitter.wait_for_complete()

    return segment


def _psygnal(events: int, handlers: int) -> Segment:
    signal: Any = import_module("psygnal").SignalInstance((object,))
    for _ in range(handlers):
        signal.connect(_sync_handler())

    async def segment() -> None:
        emit = signal.emit
        for event in repeat(PING, events):
            emit(event)

    return segment


# Name, distribution, how it runs, how to make it, and how much slower than the queue it is, roughly: a
# segment of each shall take about as long.
_PEERS: tuple[tuple[str, str, str, Callable[[int, int], Segment], int], ...] = (
    ("blinker", "blinker", "blinker, send_async: handlers awaited inline", _blinker, 1),
    ("pyee", "pyee", "pyee, EventEmitter: sync handlers called inline", _pyee, 1),
    ("pyee-asyncio", "pyee", "pyee, AsyncIOEventEmitter: a task per delivery", _pyee_asyncio, 5),
    ("psygnal", "psygnal", "psygnal: sync handlers called inline", _psygnal, 1),
)


def installed_peers(deliveries: int, handlers: int = 1) -> Iterator[Contender]:
    """A contender for each peer that is installed, with a segment of ``deliveries`` or less."""
    versions = peer_versions()
    for name, distribution, title, make, slowness in _PEERS:
        if distribution in versions:
            events = max(1, deliveries // handlers // slowness)
            yield Contender(name, title, events * handlers, make(events, handlers))


def peer_versions() -> dict[str, str]:
    """The installed peers by distribution."""
    found: dict[str, str] = {}
    for _, distribution, *_ in _PEERS:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found

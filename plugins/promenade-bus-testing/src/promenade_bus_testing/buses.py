"""Buses for tests: on memory, isolated, and checked for unexpected failures at the end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import promenade_bus_memory
from bus_core import Bus, Clock, DrainReport, SyncBus, load_config, open_bus
from promenade_bus_memory import MemoryHub
from promenade_bus_testing import plugin
from promenade_bus_testing.recorder import recorder_of, sync_recorder_of
from promenade_bus_testing.virtual_clock import VirtualClock

__all__ = ["Source", "close_bus", "isolated_bus", "isolated_sync_bus", "make_bus", "make_sync_bus"]

Source = str | os.PathLike[str] | Mapping[str, Any]
"""The path of a configuration file, or a mapping of the same shape."""

_SHORT_FORM: Final = ("retry_attempts", "retry_delay", "retry_max_delay", "retry_multiplier")


def make_bus(
    config: Source | None = None,
    *,
    plugins: Iterable[object] = (),
    clock: Clock | None = None,
    **settings: Any,
) -> Bus:
    """Makes a bus for a test, not started, with its recorder; see ``isolated_bus``."""
    bus = _open(config, plugins, clock, settings)
    recorder_of(bus).is_looked_after = True
    if isinstance(clock, VirtualClock):
        clock.wait_for_work_elsewhere(lambda: bus.threads_at_work)
    return bus


def make_sync_bus(
    config: Source | None = None, *, plugins: Iterable[object] = (), **settings: Any
) -> SyncBus:
    """Makes a bus for threads, not started, with its recorder; see ``isolated_sync_bus``."""
    bus = SyncBus(_open(config, plugins, None, settings))
    sync_recorder_of(bus).is_looked_after = True
    return bus


@asynccontextmanager
async def isolated_bus(
    config: Source | None = None,
    *,
    plugins: Iterable[object] = (),
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[Bus]:
    """Starts a bus for a test. Leaving the block closes it, and raises for unexpected failures.

    The bus always uses the memory adapter with its own hub, and serializes events as an adapter with a server
    does. ``settings`` are keys of the section ``bus`` and override ``config`` and these defaults. With
    ``config``, installed plugins are used. Without it, the bus has only the adapter, the kit's own plugin and
    ``plugins``, and on the system's clock retries do not wait.

    At the end of the block the bus is drained (a ``VirtualClock`` advances for that) and closed.
    ``UnseenFailures`` is raised for failed attempts, dead letters, lost and abandoned events, unless they
    were declared with ``recording(bus)``. If the block raises, the bus is not drained.
    """
    bus = make_bus(config, plugins=plugins, clock=clock, **settings)
    try:
        await bus.start()
        yield bus
    except BaseException:
        await close_bus(bus, clock, 0)
        raise
    recorder_of(bus).failures.check(await close_bus(bus, clock))


@contextmanager
def isolated_sync_bus(
    config: Source | None = None, *, plugins: Iterable[object] = (), **settings: Any
) -> Iterator[SyncBus]:
    """Like ``isolated_bus``, for threads and synchronous frameworks."""
    bus = make_sync_bus(config, plugins=plugins, **settings)
    try:
        bus.start()
        yield bus
    except BaseException:
        bus.close(0)
        raise
    sync_recorder_of(bus).failures.check(bus.close())


async def close_bus(bus: Bus, clock: Clock | None, timeout: float | None = None) -> DrainReport:
    """Closes a bus; a virtual clock advances meanwhile."""
    closing = bus.close(timeout)
    return await (clock.run(closing) if isinstance(clock, VirtualClock) else closing)


def _open(
    config: Source | None, plugins: Iterable[object], clock: Clock | None, settings: Mapping[str, Any]
) -> Bus:
    document: dict[str, Any] = {"app": {"name": "tests"}}
    section: dict[str, Any] = {"shutdown_timeout": "10s"}
    if config is not None:
        document = dict(config if isinstance(config, Mapping) else load_config(config).document)
        section = dict(document.get("bus") or {})
    elif clock is None:
        section["retry_delay"] = "0s"
    section.pop("fallback", None)
    if "retry" in settings or any(key in settings for key in _SHORT_FORM):
        # Both forms of a retry policy at once are an error; the test's form wins.
        for key in _SHORT_FORM if "retry" in settings else ("retry",):
            section.pop(key, None)
    memory = {**(section.get("memory") or {}), "serialize": True, "hub": MemoryHub()}
    own = settings.get("memory") or {}
    document["bus"] = {**section, "adapter": "memory", **settings, "memory": {**memory, **own}}
    return open_bus(
        document,
        plugins=[promenade_bus_memory, plugin, *plugins],
        installed=config is not None,
        clock=clock,
    )

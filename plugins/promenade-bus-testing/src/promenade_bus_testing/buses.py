"""Buses for tests: on memory, apart from all others, and sure to tell what went wrong on them."""

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
"""A configuration file, or a mapping like one."""

_SHORT_FORM: Final = ("retry_attempts", "retry_delay", "retry_max_delay", "retry_multiplier")


def make_bus(
    config: Source | None = None,
    *,
    plugins: Iterable[object] = (),
    clock: Clock | None = None,
    **settings: Any,
) -> Bus:
    """A bus for a test, not started, with its recorder; see ``isolated_bus``."""
    bus = _open(config, plugins, clock, settings)
    recorder_of(bus).is_looked_after = True
    if isinstance(clock, VirtualClock):
        clock.wait_for_work_elsewhere(lambda: bus.threads_at_work)
    return bus


def make_sync_bus(
    config: Source | None = None, *, plugins: Iterable[object] = (), **settings: Any
) -> SyncBus:
    """A bus for threads, not started, with its recorder; see ``isolated_sync_bus``."""
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
    """A started bus for a test. Leaving the block closes it, and raises when something failed unseen.

    Whatever the configuration says, it is on the memory adapter, with a hub of its own, and serializes
    events, so that what passes here passes where events travel. ``settings`` are keys of the section
    ``bus``, and go on top of ``config``, and of all this. Without ``config`` the only plugins are the
    adapter, the kit's own and ``plugins``, and on the system's clock retries do not wait; with it, those
    that are installed take part.

    At the end of the block the bus is drained (on a ``VirtualClock`` time passes for it) and closed, and
    ``UnseenFailures`` is raised for failed attempts, dead letters, lost and abandoned events, unless
    ``recording(bus)`` was told to expect them. When the block itself raises, nothing is waited for.
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
    """The same as ``isolated_bus`` for threads and synchronous frameworks."""
    bus = make_sync_bus(config, plugins=plugins, **settings)
    try:
        bus.start()
        yield bus
    except BaseException:
        bus.close(0)
        raise
    sync_recorder_of(bus).failures.check(bus.close())


async def close_bus(bus: Bus, clock: Clock | None, timeout: float | None = None) -> DrainReport:
    """Closes a bus; where its clock is a virtual one, time passes meanwhile."""
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
        # Both forms of a retry policy at once are an error; the test's own word counts.
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

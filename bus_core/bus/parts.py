"""The parts of a bus, and how they are closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import attrs

from bus_core.abc import AnyAdapter, HealthProbe, Middleware, Observer, RetryPolicy, Store, WatchedMiddleware
from bus_core.config.bus_config import BusConfig
from bus_core.dispatch.codec import Codec
from bus_core.events.primitives import FrozenMapping
from bus_core.events.topics import TopicRegistry
from bus_core.plugins.registries import Plugins
from bus_core.runtime.clock import Clock
from bus_core.runtime.logs import plain_logger

__all__ = ["BusParts", "Closing", "close_each"]

logger = plain_logger("promenade.bus")

Closing: TypeAlias = "HealthProbe | Observer | WatchedMiddleware | Store | AnyAdapter"
"""A part that has something to close."""

_CLEANUP_TIME = 0.1
"""The least seconds of real time that a part gets to close, when the shutdown timeout is over."""


@attrs.frozen(kw_only=True)
class BusParts:
    """The parts of a bus; ``bus_core.bus.bootstrap.open_bus`` builds them.

    ``watched`` are those of both chains that are a ``WatchedMiddleware``, by a name that is unique.
    ``stores`` are those that middleware chooses, each once, and ``store_checks`` the checks of those that
    are a ``WatchedStore``.
    """

    config: BusConfig
    plugins: Plugins
    adapter: AnyAdapter
    codec: Codec
    registry: TopicRegistry
    clock: Clock
    policy_for: Callable[[str], RetryPolicy]
    consume_middleware: tuple[Middleware, ...] = ()
    publish_middleware: tuple[Middleware, ...] = ()
    stores: tuple[Store, ...] = ()
    store_checks: Mapping[str, HealthProbe] = attrs.field(factory=FrozenMapping)
    watched: Mapping[str, WatchedMiddleware] = attrs.field(factory=FrozenMapping)
    probes: Mapping[str, HealthProbe] = attrs.field(factory=FrozenMapping)
    observers: Mapping[str, Observer] = attrs.field(factory=FrozenMapping)
    fallback: AnyAdapter | None = None


async def close_each(parts: Iterable[Closing], seconds: float) -> None:
    """Closes all of them, even when one raises, because no caller is left to react.

    After ``seconds`` of real time in all, it cancels and abandons the rest.
    """
    over_at = time.monotonic() + max(_CLEANUP_TIME, seconds)
    for part in parts:
        closing = asyncio.ensure_future(_close_one(part))
        await asyncio.wait((closing,), timeout=max(_CLEANUP_TIME, over_at - time.monotonic()))
        if not closing.done():
            closing.cancel()
            logger.error("closing %s did not end in time: it was left behind", type(part).__name__)


async def _close_one(part: Closing) -> None:
    try:
        await part.close()
    except Exception:
        logger.exception("closing %r failed", part)

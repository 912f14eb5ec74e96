"""The hooks that a plugin may implement. Each is called once, while a bus is opened.

Implement them as module-level functions marked with ``bus_core.hookimpl`` in one light module, and name
that module in an entry point of the group ``promenade_bus``. Import heavy dependencies in the factory's
``build``, so that installing a plugin costs nothing until it is selected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pluggy

from bus_core.abc import (
    AnyAdapter,
    Command,
    Endpoint,
    Factory,
    HealthProbe,
    Middleware,
    Observer,
    RetryPolicy,
    Serializer,
    Store,
)
from bus_core.events.topics import TopicCatalogue

__all__ = [
    "ENTRY_POINT_GROUP",
    "HOOK_VERSION",
    "OLDEST_HOOK_VERSION",
    "PROJECT",
    "hookimpl",
    "hookspec",
]

PROJECT: Final = "promenade_bus"
ENTRY_POINT_GROUP: Final = "promenade_bus"

HOOK_VERSION: Final = 1
"""The version of the hooks below. It grows with each hook, parameter or field of an answer that is new.

A plugin that needs a version says so with ``PROMENADE_BUS_HOOKS = 1`` in the module of its entry point.
"""

OLDEST_HOOK_VERSION: Final = 1
"""The oldest version that still works. It grows when something is removed, at a major version only."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def promenade_bus_adapters() -> Mapping[str, Factory[Any, AnyAdapter]]:  # type: ignore[empty-body]
    """Adapters by the name that ``bus.adapter`` selects."""


@hookspec
def promenade_bus_serializers() -> Mapping[str, Factory[Any, Serializer]]:  # type: ignore[empty-body]
    """Serializers by the name that ``bus.serializer`` selects."""


@hookspec
def promenade_bus_retry_policies() -> Mapping[str, Factory[Any, RetryPolicy]]:  # type: ignore[empty-body]
    """Retry policies by the name that ``retry.policy`` selects."""


@hookspec
def promenade_bus_middleware() -> Mapping[str, Factory[Any, Middleware]]:  # type: ignore[empty-body]
    """Middleware by the name that ``bus.middleware`` lists."""


@hookspec
def promenade_bus_stores() -> Mapping[str, Factory[Any, Store]]:  # type: ignore[empty-body]
    """Stores by the name that the options of a middleware select."""


@hookspec
def promenade_bus_topics() -> Sequence[TopicCatalogue]:  # type: ignore[empty-body]
    """The topic catalogues of one context."""


@hookspec
def promenade_bus_health_probes() -> Mapping[str, Factory[Any, HealthProbe]]:  # type: ignore[empty-body]
    """Health probes by the name that ``bus.health.probes`` lists."""


@hookspec
def promenade_bus_observers() -> Mapping[str, Factory[Any, Observer]]:  # type: ignore[empty-body]
    """Observers by the name that ``bus.observers`` lists."""


@hookspec
def promenade_bus_endpoints() -> Mapping[str, Endpoint]:  # type: ignore[empty-body]
    """Endpoints by the name of the option of ``promenade-bus run`` that takes their address."""


@hookspec
def promenade_bus_commands() -> Mapping[str, Command]:  # type: ignore[empty-body]
    """Commands of the command line by name."""

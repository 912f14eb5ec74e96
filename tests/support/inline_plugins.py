"""Plugins that a test writes where it needs them, to be given to ``open_bus(plugins=[...])``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import attrs

from bus_core import AnyAdapter, BuildContext, Factory, Features, Handler, HealthProbe, Middleware, hookimpl
from promenade_bus_memory import MemoryOptions
from promenade_bus_memory.adapter import MemoryAdapter


@attrs.frozen
class NoOptions:
    """The options of something that has none."""


def ready_made(thing: Any) -> Factory[Any, Any]:
    """A factory that gives what was made already."""

    def build(_options: NoOptions, _context: BuildContext) -> Any:
        return thing

    return Factory(NoOptions, build)


def plugin(**hooks: Mapping[str, Factory[Any, Any]]) -> object:
    """A plugin: ``plugin(middleware={"name": factory})``."""

    def answering(offers: Mapping[str, Factory[Any, Any]]) -> Callable[[], Any]:
        return hookimpl(lambda: offers)

    return SimpleNamespace(**{f"promenade_bus_{hook}": answering(offers) for hook, offers in hooks.items()})


def middleware_plugin(**offered: Middleware) -> object:
    """A plugin that offers middleware by name."""
    return plugin(middleware={name: ready_made(item) for name, item in offered.items()})


def probe_plugin(**offered: HealthProbe) -> object:
    """A plugin that offers health probes by name."""
    return plugin(health_probes={name: ready_made(item) for name, item in offered.items()})


class MemoryWith(MemoryAdapter):
    """The memory adapter, saying something else of itself."""

    def __init__(self, name: str, features: Features) -> None:
        super().__init__(MemoryOptions())
        self.name = name
        self.features = features


def adapter_plugin(adapter: AnyAdapter) -> object:
    """A plugin that offers one adapter."""
    return plugin(adapters={adapter.name: ready_made(adapter)})


def noting(name: str, notes: list[str]) -> Middleware:
    """A middleware that notes when a call passes it on its way in and on its way out."""

    def wrap(call_next: Handler) -> Handler:
        async def handle(envelope: Any) -> None:
            notes.append(f"{name} in")
            await call_next(envelope)
            notes.append(f"{name} out")

        return handle

    return wrap

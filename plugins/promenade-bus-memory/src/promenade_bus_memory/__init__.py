"""The memory adapter of Promenade Bus: events stay in the process that publishes them."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, InProcessAdapter, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_memory.config import MemoryOptions
    from promenade_bus_memory.hub import MemoryHub
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(__name__, {"config": "MemoryOptions", "hub": "MemoryHub"})

__all__ = ["MemoryHub", "MemoryOptions", "promenade_bus_adapters"]


def _build(options: MemoryOptions, context: BuildContext) -> InProcessAdapter:
    from promenade_bus_memory.adapter import MemoryAdapter

    return MemoryAdapter(options)


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[typing.Any, InProcessAdapter]]:
    """Offers ``memory``."""
    from promenade_bus_memory.config import MemoryOptions

    return {"memory": Factory(options=MemoryOptions, build=_build)}

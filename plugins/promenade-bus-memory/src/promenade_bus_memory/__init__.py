"""The memory adapter of Promenade Bus: events stay in the publishing process."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, InProcessAdapter, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_memory.config import MemoryOptions
    from promenade_bus_memory.hub import MemoryHub
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(__name__, {"config": "MemoryOptions", "hub": "MemoryHub"})

__all__ = ["MemoryHub", "MemoryOptions", "promenade_bus_adapters"]


def _build(options: MemoryOptions, context: BuildContext) -> InProcessAdapter:
    from promenade_bus_memory.adapter import MemoryAdapter

    return MemoryAdapter(options)


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[typing.Any, InProcessAdapter]]:
    """Returns the adapter ``memory``."""
    from promenade_bus_memory.config import MemoryOptions

    return {"memory": Factory(options=MemoryOptions, build=_build)}

"""The memory adapter of Promenade Bus: events stay in the process that publishes them."""

from collections.abc import Mapping
from typing import Any

from bus_core import BuildContext, Factory, InProcessAdapter, hookimpl
from promenade_bus_memory.config import MemoryOptions
from promenade_bus_memory.hub import MemoryHub

__all__ = ["MemoryHub", "MemoryOptions", "promenade_bus_adapters"]


def _build(options: MemoryOptions, context: BuildContext) -> InProcessAdapter:
    from promenade_bus_memory.adapter import MemoryAdapter

    return MemoryAdapter(options)


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, InProcessAdapter]]:
    """Offers ``memory``."""
    return {"memory": Factory(options=MemoryOptions, build=_build)}

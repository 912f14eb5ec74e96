"""The options of the memory adapter: the section ``bus.memory``."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from bus_core.config import Reader
from promenade_bus_memory.hub import MemoryHub

__all__ = ["MemoryOptions"]


def _read_hub(value: Any, path: str, faults: list[str]) -> MemoryHub | None:
    if value is None or isinstance(value, MemoryHub):
        return value
    faults.append(f"a MemoryHub can only be passed in code @ {path}")
    return None


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """The options of the memory adapter.

    ``serialize`` encodes and decodes every event, as an adapter with a server does. ``dead_letters`` is the
    capacity of the dead-letter store; when it is full, the oldest letter is removed and counted as lost.
    ``hub`` lets several buses on one event loop share their events, for tests; it can only be passed in code.
    """

    serialize: bool = False
    dead_letters: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))
    hub: Annotated[MemoryHub | None, Reader(_read_hub, repr)] = None

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
    faults.append(f"a MemoryHub can be given in code only @ {path}")
    return None


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """``serialize`` passes every event through the serializer, so that what works here works on a network.

    ``dead_letters`` bounds how many dead letters are kept; the oldest ones give way, and are counted as
    lost. ``hub`` lets several buses of one event loop share their events, for tests; it can be given in
    code only.
    """

    serialize: bool = False
    dead_letters: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))
    hub: Annotated[MemoryHub | None, Reader(_read_hub, repr)] = None

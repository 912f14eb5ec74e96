from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import promenade_bus_memory
from bus_core import Features
from promenade_bus_memory import MemoryHub
from promenade_bus_testing.contract import AdapterContract, Place


class TestMemory(AdapterContract):
    """The memory adapter keeps the contract, handing over events as they are."""

    features = Features(groups=True, broadcast=True, ordered=True, delayed=True, in_process=True)
    plugins = (promenade_bus_memory,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "memory", "memory": {"hub": MemoryHub()}}


class TestSerializingMemory(TestMemory):
    """The memory adapter keeps the contract, passing every event through the serializer."""

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "memory", "memory": {"hub": MemoryHub(), "serialize": True}}

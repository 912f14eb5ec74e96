"""The Redis adapter of Promenade Bus: events outlive the process and are shared by all instances."""

from collections.abc import Mapping
from typing import Any

from bus_core import Adapter, Factory, hookimpl

__all__ = ["promenade_bus_adapters"]


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, Adapter]]:
    """Offers nothing yet: what is here is what the adapter stands on."""
    return {}

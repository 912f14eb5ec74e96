"""The testing kit of Promenade Bus.

Names are loaded when they are used: pytest loads this package in every run of an environment that has it
installed, also where nobody tests a bus.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promenade_bus_testing.virtual_clock import VirtualClock, VirtualTimer

__all__ = ["VirtualClock", "VirtualTimer"]

_MODULES = {
    "VirtualClock": "virtual_clock",
    "VirtualTimer": "virtual_clock",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The bus that applications hold: publishing, subscriptions, life cycle, health, and ``open_bus``.

May import every other room; none imports this one. Owns: the facade in both forms (asynchronous, and for
threads), and the one place that joins configuration, plugins and adapter.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.bus.parts import BusParts
    from bus_core.bus.subscribe_options import SubscribeDecorator, SubscribeOptions
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "parts": "BusParts",
            "subscribe_options": "SubscribeDecorator SubscribeOptions",
        },
    )

__all__ = ["BusParts", "SubscribeDecorator", "SubscribeOptions"]

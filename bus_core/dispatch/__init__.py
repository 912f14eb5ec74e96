"""The engine: from an accepted event to a handler that has finished with it.

May import: ``errors``, ``runtime``, ``events``, ``abc``. Owns: the queue, lanes (one for each subscription),
workers, attempts, retries, dead-letter decisions, drain and stop. It knows no adapter and no bus.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.dispatch.codec import Codec
    from bus_core.dispatch.handlers import inspect_handler
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "codec": "Codec",
            "handlers": "inspect_handler",
        },
    )

__all__ = ["Codec", "inspect_handler"]

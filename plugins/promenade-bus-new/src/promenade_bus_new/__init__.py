"""The command ``promenade-bus new``, which writes plugins, contexts and applications of Promenade Bus."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import Command, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_new.creating import create
    from promenade_bus_new.errors import NewError
    from promenade_bus_new.updating import update
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(
        __name__, {"creating": "create", "errors": "NewError", "updating": "update"}
    )

__all__ = ["NewError", "create", "promenade_bus_commands", "update"]


def _load() -> typing.Any:
    from promenade_bus_new.command import new

    return new


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Offers ``promenade-bus new``."""
    return {"new": Command(help="Write a plugin, a context or an application, or update one.", load=_load)}

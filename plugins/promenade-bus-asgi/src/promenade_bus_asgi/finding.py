"""The bus of the application that a request belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import HTTPConnection

from bus_core import Bus, PluginError

__all__ = ["KEY", "bus_of", "get_bus"]

KEY: Final = "promenade_bus"
"""The name of the bus in the state of a request, and in that of the application."""


def get_bus(connection: HTTPConnection) -> Bus:
    """The running bus, as a dependency of FastAPI: ``Annotated[Bus, Depends(get_bus)]``.

    Starlette calls it with a request or a websocket. Raises ``PluginError`` if the application has no bus.
    """
    return bus_of(connection.scope)


def bus_of(scope: Mapping[str, Any]) -> Bus:
    """The running bus of an ASGI scope, also below a mounted application.

    Raises ``PluginError`` if neither the server's state nor the application has one.
    """
    bus = scope.get("state", {}).get(KEY)
    if bus is None:  # a test that runs the lifespan without a server
        bus = getattr(getattr(scope.get("app"), "state", None), KEY, None)
    if isinstance(bus, Bus):
        return bus
    raise PluginError(
        "this application has no open bus: make it with 'lifespan=bus_lifespan(...)'; "
        "in a test, run the lifespan, as in 'with TestClient(app) as client:'"
    )

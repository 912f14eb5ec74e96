"""ASGI applications that need the running bus, such as the probes of promenade-bus-http."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bus_core import Bus
from promenade_bus_asgi.finding import bus_of

__all__ = ["App", "bus_app"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def bus_app(make: Callable[[Bus], App]) -> App:
    """An application to mount, made by ``make(bus)`` at its first request, once for each bus.

    ``app.mount("/bus", bus_app(http_app))`` mounts the probes of ``promenade-bus-http``. The bus need not
    exist when the application is put together.
    """
    made: tuple[Bus, App] | None = None

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal made
        bus = bus_of(scope)
        if made is None or made[0] is not bus:
            made = bus, make(bus)
        await made[1](scope, receive, send)

    return application

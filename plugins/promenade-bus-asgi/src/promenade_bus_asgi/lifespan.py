"""The lifespan of an application, which opens its bus and closes it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from bus_core import Bus, BusStateError
from promenade_bus_asgi.finding import KEY

__all__ = ["BusSource", "bus_lifespan"]

BusSource = Bus | Callable[[], Bus] | Callable[[], Awaitable[Bus]]
"""An unstarted bus, or a function, plain or async, that opens one."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def bus_lifespan(
    source: BusSource, *, inside: Lifespan | None = None
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """The lifespan for ``FastAPI(lifespan=...)`` or ``Starlette(lifespan=...)``.

    It starts the bus before the server accepts requests, and closes it after the last response, within
    ``shutdown_timeout``. A function as ``source`` is called at each start of the application, in the process
    that serves; a ``Bus`` can be started once.

    ``inside`` is a further lifespan, which runs while the bus is open; its state is kept. An error of either
    one fails the start of the server. Raises ``TypeError`` at the start if the source gives no ``Bus``, and
    ``BusStateError`` if that bus was started before.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with await _opened(source) as bus:
            setattr(app.state, KEY, bus)
            try:
                if inside is None:
                    yield {KEY: bus}
                else:
                    async with inside(app) as state:
                        yield {**(state or {}), KEY: bus}
            finally:
                delattr(app.state, KEY)

    return lifespan


async def _opened(source: BusSource) -> Bus:
    made: Any = source if isinstance(source, Bus) else source()
    bus = await made if inspect.isawaitable(made) else made
    if not isinstance(bus, Bus):
        raise TypeError(
            f"bus_lifespan needs a Bus or a function that returns one, got {type(bus).__name__}; "
            "make it with open_bus(), for the server has an event loop already"
        )
    if bus.status != "not started":
        raise BusStateError(
            f"the bus of this application is {bus.status}, and a bus starts once: give bus_lifespan a "
            "function that opens a bus, so that each start of the application has its own"
        )
    return bus

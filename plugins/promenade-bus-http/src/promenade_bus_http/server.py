"""Serves the application from a thread with an event loop of its own, so that a blocked bus is told."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bus_core import Bus, PluginError, SyncBus
from bus_core.abc import WorkerEndpoint
from bus_core.runtime import plain_logger
from promenade_bus_http.app import HttpApp
from promenade_bus_http.looking import Heartbeat, Limits
from promenade_bus_http.many import ManyApp
from promenade_bus_http.paths import App

__all__ = ["serve", "serve_at", "serve_many_at"]

logger = plain_logger("promenade.bus.http")

LOOPBACK: Final = "127.0.0.1"

_ENDS_WITHIN: Final = 3.0
"""Seconds that the server gets to end."""


@contextmanager
def serve(
    bus: Bus | SyncBus, *, host: str = LOOPBACK, port: int = 8080, limits: Limits | None = None
) -> Iterator[str]:
    """Serves ``/livez``, ``/readyz``, ``/healthz`` and ``/metrics`` of a bus; gives the address.

    Only this machine can reach it unless another ``host`` is given; port 0 takes a free one. The bus need not
    be started yet. Raises ``PluginError`` when it cannot listen there, or uvicorn is not installed.
    """
    served = bus.bus if isinstance(bus, SyncBus) else bus
    heartbeat = Heartbeat(served)
    with _serving(HttpApp(served, limits or Limits(), heartbeat), host, port, heartbeat.beat) as where:
        yield where


def serve_at(bus: Bus, address: str) -> Any:
    """The same at ``HOST:PORT``, ``[HOST]:PORT`` or ``PORT``, which is on this machine only."""
    host, port = _parts_of(address)
    return serve(bus, host=host, port=port)


def serve_many_at(workers: Callable[[], Sequence[WorkerEndpoint]], address: str) -> Any:
    """Serves the worst state of several workers, in the process that has started them."""
    host, port = _parts_of(address)
    return _serving(ManyApp(workers, Limits()), host, port, None)


@contextmanager
def _serving(
    app: App, host: str, port: int, beside: Callable[[], Coroutine[Any, Any, None]] | None
) -> Iterator[str]:
    """Serves an application; ``beside`` runs on the same event loop."""
    listening = _listen(host, port)
    running = _Server(app, listening, beside)
    running.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{listening.getsockname()[1]}"
    finally:
        running.stop()


def _parts_of(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    if not port.isdecimal() or int(port) > 65_535:
        raise PluginError(
            f"{address!r} is no address to serve HTTP at; write HOST:PORT, as in 127.0.0.1:8080"
        )
    return host, int(port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise PluginError(
            f"cannot serve HTTP at {host}:{port}: {what}; give another address, or end what listens there"
        ) from error


class _Server:
    """uvicorn in a thread."""

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        beside: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        try:
            import uvicorn
        except ModuleNotFoundError as error:
            listening.close()
            raise PluginError(
                "serving HTTP needs uvicorn: run pip install 'promenade-bus-http[uvicorn]'"
            ) from error
        self._beside = beside
        self._listening = listening
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            server_header=False,
            proxy_headers=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="promenade-http", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and waits a little for it."""
        self._server.should_exit = True
        self._thread.join(_ENDS_WITHIN)
        if self._thread.is_alive():
            logger.error("the HTTP server did not end within %g s and was left behind", _ENDS_WITHIN)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        beside = None if self._beside is None else asyncio.create_task(self._beside())
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            if beside is not None:
                beside.cancel()
            self._listening.close()

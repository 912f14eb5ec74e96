"""Probes and metrics of Promenade Bus over HTTP: an ASGI application, and the endpoint ``http``."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import bus_core
from bus_core import Endpoint, hookimpl, on_demand
from bus_core.abc import WorkerEndpoint

if typing.TYPE_CHECKING:
    from promenade_bus_http.app import http_app
    from promenade_bus_http.looking import Limits
    from promenade_bus_http.server import serve
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(__name__, {"app": "http_app", "looking": "Limits", "server": "serve"})

__all__ = ["Limits", "http_app", "promenade_bus_endpoints", "serve"]


def _load() -> Callable[[bus_core.Bus, str], AbstractContextManager[str]]:
    from promenade_bus_http.server import serve_at

    return serve_at


def _many() -> Callable[[Callable[[], Sequence[WorkerEndpoint]], str], AbstractContextManager[str]]:
    from promenade_bus_http.server import serve_many_at

    return serve_many_at


@hookimpl
def promenade_bus_endpoints() -> Mapping[str, Endpoint]:
    """Offers ``http``."""
    text = "Serve /livez, /readyz, /healthz and /metrics."
    return {"http": Endpoint(help=text, load=_load, load_many=_many)}

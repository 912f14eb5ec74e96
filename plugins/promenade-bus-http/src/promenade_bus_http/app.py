"""The ASGI application: four paths that answer GET and HEAD, and tell nothing of any event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import attrs

from bus_core import Bus, CheckResult, HealthReport, HealthStatus, SyncBus
from promenade_bus_http.looking import Cause, Heartbeat, Limits, NotAnswered, look_at

__all__ = ["App", "HttpApp", "http_app"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


def http_app(bus: Bus | SyncBus, *, limits: Limits | None = None) -> App:
    """An ASGI application for a bus, to be served or mounted; the bus need not be started yet.

    ``/livez`` says whether the process is worth keeping, ``/readyz`` whether it shall get work, ``/healthz``
    gives the health report, and ``/metrics`` what an observer of the bus counts.
    """
    return HttpApp(bus.bus if isinstance(bus, SyncBus) else bus, limits or Limits())


@attrs.frozen
class _Answer:
    status: int
    body: bytes
    content_type: str = _JSON


def _json(code: int, /, **content: Any) -> _Answer:
    return _Answer(code, json.dumps(content).encode())


class HttpApp:
    """See ``http_app``. ``heartbeat`` is that of a server which has an event loop of its own."""

    def __init__(self, bus: Bus, limits: Limits, heartbeat: Heartbeat | None = None) -> None:
        self._bus = bus
        self._limits = limits
        self._heartbeat = heartbeat
        self._paths: Mapping[str, Callable[[str], Awaitable[_Answer]]] = {
            "/livez": self._live,
            "/readyz": self._ready,
            "/healthz": self._health,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; takes part in the lifespan of a server without doing anything in it."""
        match scope["type"]:
            case "http":
                await _send(send, await self._answer(scope), head_only=scope["method"] == "HEAD")
            case "lifespan":
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            case kind:
                raise RuntimeError(f"an ASGI scope of type {kind!r} is not served here")

    async def _answer(self, scope: Scope) -> _Answer:
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        answer = self._paths.get(path)
        if answer is None:
            return _json(404, error=f"there is nothing at this path; paths are {', '.join(self._paths)}")
        if scope["method"] not in ("GET", "HEAD"):
            return _json(405, error="only GET and HEAD are answered")
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        return await answer(accept.decode("latin-1"))

    # --- the four paths -----------------------------------------------------------------------------------

    async def _live(self, _accept: str) -> _Answer:
        silent = 0.0 if self._heartbeat is None else self._heartbeat.silent_for
        if silent > self._limits.stuck:
            cause = _silence(silent, self._limits.stuck)
            return _json(503, status="stuck", causes=[attrs.asdict(cause)])
        return _json(200, status="alive")

    async def _ready(self, _accept: str) -> _Answer:
        try:
            look = await look_at(self._bus, self._limits, self._heartbeat)
        except NotAnswered as error:
            causes = [_silence(error.seconds, self._limits.loop)]
        else:
            causes = look.causes(self._limits)
        if causes:
            return _json(503, status="not ready", causes=[attrs.asdict(cause) for cause in causes])
        return _json(200, status="ready")

    async def _health(self, _accept: str) -> _Answer:
        try:
            report = (await look_at(self._bus, self._limits, self._heartbeat)).report
        except NotAnswered as error:
            cause = _silence(error.seconds, self._limits.loop)
            silent = CheckResult(HealthStatus.UNHEALTHY, cause.summary, {"silent_s": cause.value})
            report = HealthReport({cause.check: silent})
        return _json(503 if report.status is HealthStatus.UNHEALTHY else 200, **report.to_dict())

    async def _metrics(self, accept: str) -> _Answer:
        scrape = next(
            (each.scrape for each in self._bus.parts.observers.values() if each.scrape is not None), None
        )
        if scrape is None:
            installed = "prometheus" in self._bus.parts.plugins.observers
            install = "" if installed else "run 'pip install promenade-bus-prometheus' and "
            text = f"no observer of this bus gives figures: {install}add 'prometheus' to 'bus.observers'\n"
            return _Answer(404, text.encode(), _TEXT)
        content_type, body = await asyncio.to_thread(scrape, accept)
        return _Answer(200, body, content_type)


def _silence(seconds: float, limit: float) -> Cause:
    return Cause(
        "event-loop",
        f"the event loop of the bus has not answered for {seconds:.1f} s: a handler blocks it",
        round(seconds, 1),
        limit,
    )


async def _send(send: Send, answer: _Answer, *, head_only: bool) -> None:
    headers = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head_only else answer.body})

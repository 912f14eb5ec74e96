"""The ASGI application of one bus: four paths, which tell nothing of any event."""

from __future__ import annotations

import asyncio

import attrs

from bus_core import Bus, CheckResult, HealthReport, HealthStatus, SyncBus
from promenade_bus_http.looking import Cause, Heartbeat, Limits, NotAnswered, look_at
from promenade_bus_http.paths import TEXT, Answer, App, PathsApp, json_answer

__all__ = ["App", "HttpApp", "http_app"]


def http_app(bus: Bus | SyncBus, *, limits: Limits | None = None) -> App:
    """An ASGI application for a bus, to be served or mounted; the bus need not be started yet.

    ``/livez`` says whether the process is worth keeping, ``/readyz`` whether it shall get work, ``/healthz``
    gives the health report, and ``/metrics`` what an observer of the bus counts.
    """
    return HttpApp(bus.bus if isinstance(bus, SyncBus) else bus, limits or Limits())


class HttpApp(PathsApp):
    """See ``http_app``. ``heartbeat`` is that of a server which has an event loop of its own."""

    def __init__(self, bus: Bus, limits: Limits, heartbeat: Heartbeat | None = None) -> None:
        super().__init__(
            {
                "/livez": self._live,
                "/readyz": self._ready,
                "/healthz": self._health,
                "/metrics": self._metrics,
            }
        )
        self._bus = bus
        self._limits = limits
        self._heartbeat = heartbeat

    async def _live(self, _accept: str) -> Answer:
        silent = 0.0 if self._heartbeat is None else self._heartbeat.silent_for
        if silent > self._limits.stuck:
            cause = _silence(silent, self._limits.stuck)
            return json_answer(503, status="stuck", causes=[attrs.asdict(cause)])
        return json_answer(200, status="alive")

    async def _ready(self, _accept: str) -> Answer:
        try:
            look = await look_at(self._bus, self._limits, self._heartbeat)
        except NotAnswered as error:
            causes = [_silence(error.seconds, self._limits.loop)]
        else:
            causes = look.causes(self._limits)
        if causes:
            return json_answer(503, status="not ready", causes=[attrs.asdict(cause) for cause in causes])
        return json_answer(200, status="ready")

    async def _health(self, _accept: str) -> Answer:
        try:
            report = (await look_at(self._bus, self._limits, self._heartbeat)).report
        except NotAnswered as error:
            cause = _silence(error.seconds, self._limits.loop)
            silent = CheckResult(HealthStatus.UNHEALTHY, cause.summary, {"silent_s": cause.value})
            report = HealthReport({cause.check: silent})
        return json_answer(503 if report.status is HealthStatus.UNHEALTHY else 200, **report.to_dict())

    async def _metrics(self, accept: str) -> Answer:
        scrape = next(
            (each.scrape for each in self._bus.parts.observers.values() if each.scrape is not None), None
        )
        if scrape is None:
            installed = "prometheus" in self._bus.parts.plugins.observers
            install = "" if installed else "run 'pip install promenade-bus-prometheus' and "
            text = f"no observer of this bus gives figures: {install}add 'prometheus' to 'bus.observers'\n"
            return Answer(404, text.encode(), TEXT)
        content_type, body = await asyncio.to_thread(scrape, accept)
        return Answer(200, body, content_type)


def _silence(seconds: float, limit: float) -> Cause:
    return Cause(
        "event-loop",
        f"the event loop of the bus has not answered for {seconds:.1f} s: a handler blocks it",
        round(seconds, 1),
        limit,
    )

"""The ASGI application for several worker processes: asks each of them, and answers with the worst."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from bus_core import HealthStatus
from bus_core.abc import WorkerEndpoint
from promenade_bus_http.looking import Limits
from promenade_bus_http.paths import TEXT, Answer, PathsApp, json_answer

__all__ = ["ManyApp"]

_ANSWERS_WITHIN: Final = 4.0
"""Seconds that a worker gets to answer: longer than it waits for its event loop and its probes."""

_LONGEST_BODY: Final = 64 * 1024 * 1024


@attrs.frozen
class _Asked:
    """A worker, and its answer: None while it does not serve, or gives none."""

    worker: WorkerEndpoint
    answer: Answer | None

    @property
    def content(self) -> dict[str, Any]:
        """The JSON of its answer."""
        assert self.answer is not None, "only an answer has content"
        found: dict[str, Any] = json.loads(self.answer.body)
        return found

    @property
    def trouble(self) -> str:
        """The reason for which there is no answer."""
        if self.worker.address is None:
            return f"process {self.worker.name} {self.worker.state}"
        return f"process {self.worker.name} has not answered for {_ANSWERS_WITHIN:g} s"


class ManyApp(PathsApp):
    """Serves the worst state of all workers. ``workers`` gives those that there are now."""

    def __init__(self, workers: Callable[[], Sequence[WorkerEndpoint]], limits: Limits) -> None:
        super().__init__(
            {
                "/livez": self._live,
                "/readyz": self._ready,
                "/healthz": self._health,
                "/metrics": self._metrics,
            }
        )
        self._workers = workers
        self._limits = limits
        self._mute_since: dict[str, float] = {}

    async def _live(self, _accept: str) -> Answer:
        causes = []
        for asked in await self._ask_all("/livez"):
            if asked.answer is None:
                silent = self._mute_for(asked.worker)
                if silent > self._limits.stuck:
                    causes.append(_cause(asked, asked.trouble, round(silent, 1), self._limits.stuck))
            elif asked.answer.status != 200:
                causes += _causes_in(asked)
        return json_answer(503, status="stuck", causes=causes) if causes else json_answer(200, status="alive")

    async def _ready(self, _accept: str) -> Answer:
        causes = []
        for asked in await self._ask_all("/readyz"):
            if asked.answer is None:
                causes.append(_cause(asked, asked.trouble, "not running", "running"))
            elif asked.answer.status != 200:
                causes += _causes_in(asked)
        if causes:
            return json_answer(503, status="not ready", causes=causes)
        return json_answer(200, status="ready")

    async def _health(self, _accept: str) -> Answer:
        reports: dict[str, Any] = {}
        for asked in await self._ask_all("/healthz"):
            if asked.answer is None:
                check = {"status": HealthStatus.UNHEALTHY.value, "summary": asked.trouble, "figures": {}}
                reports[asked.worker.name] = {"status": check["status"], "checks": {"process": check}}
            else:
                reports[asked.worker.name] = asked.content
        worst = max(
            (HealthStatus(report["status"]) for report in reports.values()), key=lambda each: each.severity
        )
        return json_answer(
            503 if worst is HealthStatus.UNHEALTHY else 200, status=worst.value, processes=reports
        )

    async def _metrics(self, accept: str) -> Answer:
        """The figures of all, which any of them has: they share a directory."""
        for worker in self._workers():
            answer = (await self._ask(worker, "/metrics", accept)).answer
            if answer is not None:
                return answer
        return Answer(503, b"no worker process answers\n", TEXT)

    # --- asking -------------------------------------------------------------------------------------------

    async def _ask_all(self, path: str) -> Sequence[_Asked]:
        return await asyncio.gather(*(self._ask(worker, path) for worker in self._workers()))

    async def _ask(self, worker: WorkerEndpoint, path: str, accept: str = "*/*") -> _Asked:
        answer = None
        if worker.address is not None:
            try:
                answer = await asyncio.wait_for(_get(worker.address, path, accept), _ANSWERS_WITHIN)
            except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
                pass  # it has ended, or is stopped
        if answer is not None or worker.address is None:
            self._mute_since.pop(worker.name, None)  # a worker that starts is not mute
        else:
            self._mute_since.setdefault(worker.name, time.monotonic())
        return _Asked(worker, answer)

    def _mute_for(self, worker: WorkerEndpoint) -> float:
        since = self._mute_since.get(worker.name)
        return 0.0 if since is None else time.monotonic() - since


def _cause(asked: _Asked, summary: str, value: float | str, threshold: float | str) -> dict[str, Any]:
    return {
        "process": asked.worker.name,
        "check": "process",
        "summary": summary,
        "value": value,
        "threshold": threshold,
    }


def _causes_in(asked: _Asked) -> list[dict[str, Any]]:
    return [{"process": asked.worker.name, **cause} for cause in asked.content["causes"]]


async def _get(address: str, path: str, accept: str) -> Answer:
    """One GET request to a worker of this machine. Raises ``OSError`` or ``ValueError`` when it fails."""
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        lines = [f"GET {path} HTTP/1.1", f"Host: {url.netloc}", f"Accept: {accept}", "Connection: close"]
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers["content-length"]) if "content-length" in headers else -1
        if not 0 <= length <= _LONGEST_BODY:
            raise ValueError(f"a worker answered with {length} bytes")
        body = await reader.readexactly(length)
        return Answer(int(first.split()[1]), body, headers.get("content-type", TEXT))
    finally:
        writer.close()

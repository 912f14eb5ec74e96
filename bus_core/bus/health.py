"""Health: runs every probe under one deadline, and reports all results together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import attrs

from bus_core.abc import CheckResult, EngineState, HealthProbe, HealthStatus
from bus_core.errors import UnhealthyError
from bus_core.events.primitives import FrozenMapping
from bus_core.runtime.clock import Clock
from bus_core.runtime.error_text import describe_error
from bus_core.runtime.timeouts import expiry

__all__ = ["HealthReport", "run_probes"]


@attrs.frozen
class HealthReport:
    """The checks by name. ``status`` is the worst of them.

    In a readiness check: ``(await bus.health()).raise_if_unhealthy()``
    """

    checks: Mapping[str, CheckResult]

    @property
    def status(self) -> HealthStatus:
        """The worst status of all checks; unhealthy when there is none."""
        statuses = [check.status for check in self.checks.values()]
        return max(statuses, key=lambda status: status.severity, default=HealthStatus.UNHEALTHY)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON: ``status``, and ``checks`` by name."""
        checks = {name: check.to_dict() for name, check in self.checks.items()}
        return {"status": self.status.value, "checks": checks}

    def raise_if_unhealthy(self) -> None:
        """Raises ``UnhealthyError``, which names the unhealthy checks. A degraded bus passes."""
        if self.status is not HealthStatus.UNHEALTHY:
            return
        bad = [
            f"{name}: {check.summary}"
            for name, check in self.checks.items()
            if check.status is HealthStatus.UNHEALTHY
        ]
        raise UnhealthyError("; ".join(bad) or "no check was made")


async def run_probes(
    probes: Mapping[str, HealthProbe], state: EngineState, clock: Clock, timeout: float
) -> Mapping[str, CheckResult]:
    """Runs all probes at once. A probe that raises, or takes more than ``timeout`` seconds, is unhealthy."""
    if not probes:
        return FrozenMapping()
    loop = asyncio.get_running_loop()
    tasks = {
        name: loop.create_task(_run(probe, state), name=f"probe {name}") for name, probe in probes.items()
    }
    expired, timer = expiry(clock, timeout)
    answered = asyncio.ensure_future(asyncio.wait(tasks.values()))
    watched: set[asyncio.Future[Any]] = {answered, expired}
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        answered.cancel()
        found = {name: _answer(task, timeout) for name, task in tasks.items()}
    return FrozenMapping(found)


async def _run(probe: HealthProbe, state: EngineState) -> CheckResult:
    """Runs one probe, and returns its result or its failure. Nothing escapes, not even SystemExit."""
    try:
        found: object = await probe.check(state)
        if not isinstance(found, CheckResult):
            raise TypeError(f"check() returned a {type(found).__name__}, not a CheckResult")
    except BaseException as error:
        return CheckResult(HealthStatus.UNHEALTHY, f"the probe failed with {describe_error(error)}")
    return found


def _answer(task: asyncio.Task[CheckResult], timeout: float) -> CheckResult:
    if task.done() and not task.cancelled():
        return task.result()
    task.cancel()
    return CheckResult(HealthStatus.UNHEALTHY, f"the probe gave no answer within {timeout:g} s")

"""``promenade-bus health``: one health report, and an exit status for scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Any
Module = Callable[[str], str]

APP = """
class Probes:
    @staticmethod
    @hookimpl
    def promenade_bus_health_probes():
        import attrs
        from bus_core import CheckResult, Factory, HealthProbe, HealthStatus
        @attrs.frozen
        class Options: ...
        class Probe(HealthProbe):
            async def check(self, state):
                return CheckResult(HealthStatus({status!r}), "as told", {{"level": 3}})
        return {{"told": Factory(Options, lambda options, context: Probe())}}

CONFIG["bus"]["health"] = {{"probes": ["told"]}}

def make():
    return open_bus(CONFIG, plugins=[Probes()])
"""


@pytest.mark.parametrize(("status", "code"), [("healthy", 0), ("degraded", 1), ("unhealthy", 3)])
def test_the_exit_status_is_that_of_the_report(run: Run, module: Module, status: str, code: int) -> None:
    """The status is 0, 1 or 3 for the worst check; the report has the summary and figures of each."""
    name = module(APP.format(status=status))
    found = run.json("health", "--app", f"{name}:make", status=code)
    assert found["status"] == status
    assert found["checks"]["told"] == {"status": status, "summary": "as told", "figures": {"level": 3}}
    assert found["checks"]["bus"]["status"] == "healthy"
    result = run("health", "--app", f"{name}:make")
    assert result.exit_code == code
    assert result.stdout.splitlines()[-1] == status


def test_on_memory_it_says_what_it_cannot_know(run: Run, config: Callable[[str], str]) -> None:
    """With an in-process adapter the command notes that the report covers its own bus only."""
    result = run("health", "--config", config("bus: {adapter: memory}"))
    assert result.exit_code == 0
    assert "'memory' stores nothing outside its process" in result.stderr

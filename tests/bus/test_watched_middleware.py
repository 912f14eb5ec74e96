from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import attrs
import pytest

from bus_core import (
    BaseEvent,
    CheckResult,
    Factory,
    Handler,
    HealthStatus,
    Middleware,
    WatchedMiddleware,
    hookimpl,
)
from bus_core.config import Name
from promenade_bus_testing import isolated_bus


@attrs.frozen
class Options:
    broken: bool = False


class Watched(WatchedMiddleware):
    """Notes what the bus does with it."""

    def __init__(self, options: Options) -> None:
        self.broken = options.broken
        self.calls: list[str] = []
        made.append(self)

    def __call__(self, handler: Handler) -> Handler:
        return handler

    async def start(self) -> None:
        self.calls.append("start")

    def counts(self) -> Mapping[tuple[str, str], int]:
        if self.broken:
            raise OSError("no counts")
        return {("mail", "seen"): 3}

    async def close(self) -> None:
        self.calls.append("close")


class Silent(Watched):
    def counts(self) -> Mapping[tuple[str, str], int]:
        return {}


made: list[Watched] = []


class Plugin:
    @hookimpl
    def promenade_bus_middleware(self) -> Mapping[str, Factory[Any, Middleware]]:
        return {
            "watched": Factory(options=Options, build=lambda options, _: Watched(options)),
            "silent": Factory(options=Options, build=lambda options, _: Silent(options)),
        }


@pytest.fixture(autouse=True)
def _none_made() -> None:
    made.clear()


async def test_the_bus_starts_counts_and_closes_it() -> None:
    """Middleware is started and closed with the bus; health and state have its counts by a unique name."""
    chains = {"consume": ["watched", "watched", "silent"], "publish": ["watched"]}
    async with isolated_bus(plugins=[Plugin()], middleware=chains, strict_topics=False) as bus:
        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        report, state = await bus.health(), bus.state()
        assert [each.calls for each in made] == [["start"]] * 4
    names = ["watched", "watched 2", "watched (publish)"]
    assert [name for name in report.checks if name != "bus"] == [f"middleware {name}" for name in names]
    assert report.checks["middleware watched"] == CheckResult(
        HealthStatus.HEALTHY, "3 seen (mail)", {"seen mail": 3}
    )
    assert [(each.middleware, each.subject, each.outcome, each.events) for each in state.middleware] == [
        (name, "mail", "seen", 3) for name in names
    ]
    assert [each.calls for each in made] == [["start", "close"]] * 4


async def test_counts_that_raise() -> None:
    """Counts that raise are left out of the state, and health says so."""
    async with isolated_bus(plugins=[Plugin()], middleware=[{"watched": {"broken": True}}]) as bus:
        report = await bus.health()
        assert bus.state().middleware == ()
    assert report.checks["middleware watched"].status is HealthStatus.UNHEALTHY
    assert "OSError: no counts" in report.checks["middleware watched"].summary


class WatchedStore:
    """A store of which only the health matters."""

    forgotten = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> CheckResult:
        return CheckResult(HealthStatus.DEGRADED, "nearly full")


async def test_a_store_with_a_health() -> None:
    """The health report has the check of a store that middleware chooses, once for equal selections."""

    @attrs.frozen
    class Chosen:
        store: Name

    class Stores(Plugin):
        @hookimpl
        def promenade_bus_stores(self) -> Mapping[str, Any]:
            return {"watched": Factory(options=Options, build=lambda options, _: WatchedStore())}

        @hookimpl
        def promenade_bus_middleware(self) -> Mapping[str, Any]:
            plain = Factory(
                options=Chosen, build=lambda options, _: lambda handler: handler, stores=("store",)
            )
            return {"plain": plain}

    other = {"watched": {"broken": True}}
    chain = [{"plain": {"store": store}} for store in ("watched", "watched", other)]
    async with isolated_bus(plugins=[Stores()], middleware=chain) as bus:
        report = await bus.health()
    expected = CheckResult(HealthStatus.DEGRADED, "nearly full")
    checks = {name: check for name, check in report.checks.items() if name.startswith("store")}
    assert checks == {"store watched": expected, "store watched 2": expected}
    assert report.status is HealthStatus.DEGRADED

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import pytest

from bus_core import (
    BusClosed,
    CheckResult,
    ConfigError,
    Delivery,
    EngineState,
    HealthProbe,
    HealthReport,
    HealthStatus,
    UnhealthyError,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, until
from support.handlers import Collecting, ignore
from support.inline_plugins import probe_plugin

HEALTHY, DEGRADED, UNHEALTHY = HealthStatus


def found(status: HealthStatus, summary: str = "") -> CheckResult:
    return CheckResult(status, summary)


class Probe(HealthProbe):
    """A probe that finds what it is told to, and notes what becomes of it."""

    def __init__(self, outcome: Any = None, notes: list[str] | None = None) -> None:
        self.outcome = found(HEALTHY, "fine") if outcome is None else outcome
        self.notes = [] if notes is None else notes

    async def start(self) -> None:
        self.notes.append("start")

    async def check(self, state: EngineState) -> CheckResult:
        self.notes.append(f"check {state.published}")
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def close(self) -> None:
        self.notes.append("close")


def probing(timeout: Any = "1s", **probes: HealthProbe) -> dict[str, Any]:
    """The options of a bus with these probes."""
    return {
        "plugins": [probe_plugin(**probes)],
        "health": {"probes": list(probes), "timeout": timeout},
    }


# --- the report -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statuses", [*itertools.product(HealthStatus, repeat=2), (HEALTHY,), (UNHEALTHY,)])
def test_the_worst_status_wins(statuses: tuple[HealthStatus, ...]) -> None:
    """The status of a report is the worst of its checks, in whatever order they stand."""
    report = HealthReport({str(number): found(status) for number, status in enumerate(statuses)})
    severity = {HEALTHY: 0, DEGRADED: 1, UNHEALTHY: 2}
    assert report.status is max(statuses, key=severity.__getitem__)


def test_a_report_without_checks() -> None:
    """Nothing was looked at, so nothing can be said to be healthy."""
    assert HealthReport({}).status is UNHEALTHY
    with pytest.raises(UnhealthyError, match="no check was made"):
        HealthReport({}).raise_if_unhealthy()


def test_a_report_as_plain_data() -> None:
    """A report is a dict that JSON takes as it is, also where a figure is infinite."""
    check = CheckResult(DEGRADED, "slow", {"delay_s": float("inf"), "late": 3, "ok": False})
    report = HealthReport({"loop": check, "bus": found(HEALTHY, "open")})
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == {
        "status": "degraded",
        "checks": {
            "loop": {
                "status": "degraded",
                "summary": "slow",
                "figures": {"delay_s": "inf", "late": 3, "ok": False},
            },
            "bus": {"status": "healthy", "summary": "open", "figures": {}},
        },
    }


def test_raise_if_unhealthy() -> None:
    """Only an unhealthy report raises, and names the unhealthy checks."""
    HealthReport({"a": found(HEALTHY), "b": found(DEGRADED, "slow")}).raise_if_unhealthy()
    report = HealthReport({"a": found(UNHEALTHY, "gone"), "b": found(DEGRADED), "c": found(UNHEALTHY, "off")})
    with pytest.raises(UnhealthyError) as caught:
        report.raise_if_unhealthy()
    assert str(caught.value) == "a: gone; c: off"


def test_statuses_are_text() -> None:
    """A status is its own name, as JSON and logs want it."""
    assert [f"{status}" for status in HealthStatus] == ["healthy", "degraded", "unhealthy"]


# --- the bus's own check ----------------------------------------------------------------------------------


async def test_the_life_of_a_bus() -> None:
    """A bus is unhealthy before start, healthy while it is open, and unhealthy while it closes and after."""
    release = asyncio.Event()

    async def slow(event: object) -> None:
        await release.wait()

    bus = make_bus()
    assert (await bus.health()).checks["bus"] == found(UNHEALTHY, "the bus is not started")
    await bus.start()
    report = await bus.health()
    assert report.status is HEALTHY
    assert report.checks["bus"].summary == "open on 'memory', nothing lost"
    report.raise_if_unhealthy()
    bus.subscribe(HAPPENED, slow)
    await bus.publish(HAPPENED, happened())
    assert (await bus.health()).checks["bus"].figures["unsettled"] == 1
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    assert (await bus.health()).checks["bus"] == found(UNHEALTHY, "the bus is closing")
    release.set()
    await closing
    report = await bus.health()
    assert report.checks == {"bus": found(UNHEALTHY, "the bus is closed")}
    with pytest.raises(UnhealthyError, match="bus: the bus is closed"):
        report.raise_if_unhealthy()


async def test_losses_degrade() -> None:
    """When something was lost the bus is degraded, and says how much."""

    async def fail(event: object) -> None:
        raise ValueError

    async with running_bus(memory={"dead_letters": 2}, retry_attempts=1) as bus:
        bus.subscribe(HAPPENED, fail)
        for _ in range(2):
            await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert (await bus.health()).status is HEALTHY
        for _ in range(3):
            await bus.publish(HAPPENED, happened())
        await bus.drain()
        check = (await bus.health()).checks["bus"]
        assert check.status is DEGRADED
        assert check.summary.startswith("lost 3 events or dead letters")
        assert (check.figures["lost"], bus.state().lost) == (3, 3)


async def test_health_inside_of_a_handler() -> None:
    """A handler may ask for the health of its bus."""
    statuses: list[HealthStatus] = []
    async with running_bus(**probing(fine=Probe())) as bus:

        async def look(event: object) -> None:
            statuses.append((await bus.health()).status)

        bus.subscribe(HAPPENED, look)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert statuses == [HEALTHY]


async def test_a_failing_handler_is_not_ill_health() -> None:
    """Retries and dead letters are what the bus is for: they do not change its own health."""

    async def fail(event: object) -> None:
        raise ValueError

    async with running_bus(retry_attempts=2, retry_delay="1ms") as bus:
        bus.subscribe(HAPPENED, fail)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert len(await bus.dead_letters.list()) == 1
        assert (await bus.health()).status is HEALTHY


# --- probes -----------------------------------------------------------------------------------------------


async def test_probes_start_check_and_close() -> None:
    """Probes are started with the bus, look when health is asked for, and are closed with it."""
    notes: list[str] = []
    bus = make_bus(**probing(noting=Probe(found(DEGRADED, "a little slow"), notes)))
    await bus.health()
    assert notes == []
    async with bus:
        await bus.publish(HAPPENED, happened())
        report = await bus.health()
        assert report.status is DEGRADED
        assert report.checks["noting"].summary == "a little slow"
        assert [*report.checks] == ["bus", "noting"]
    await bus.health()
    assert notes == ["start", "check 1", "close"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()]
)
async def test_a_probe_that_raises(error: BaseException) -> None:
    """A probe that raises, whatever it is, is unhealthy with its error; the others are asked all the same."""
    async with running_bus(**probing(broken=Probe(error), fine=Probe())) as bus:
        report = await bus.health()
        assert report.status is UNHEALTHY
        assert report.checks["broken"].status is UNHEALTHY
        assert report.checks["broken"].summary.startswith(f"the probe failed with {type(error).__name__}")
        assert report.checks["fine"].status is HEALTHY


class NotAsync(HealthProbe):
    def check(self, state: EngineState) -> Any:
        raise ValueError("at once")


@pytest.mark.parametrize(
    ("probe", "summary"),
    [
        (Probe("fine"), "the probe failed with TypeError: check() returned a str, not a CheckResult"),
        (
            Probe(HEALTHY),
            "the probe failed with TypeError: check() returned a HealthStatus, not a CheckResult",
        ),
        (NotAsync(), "the probe failed with ValueError: at once"),
        (HealthProbe(), "the probe failed with NotImplementedError"),
    ],
    ids=["text", "status", "not-async", "base"],
)
async def test_a_probe_that_is_wrong(probe: HealthProbe, summary: str) -> None:
    """A probe that answers with something else is unhealthy, and does not break the report."""
    async with running_bus(**probing(wrong=probe)) as bus:
        assert (await bus.health()).checks["wrong"] == found(UNHEALTHY, summary)


class Hanging(HealthProbe):
    """A probe that never answers."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.stubborn = stubborn
        self.cancelled = False
        self.release = asyncio.Event()

    async def check(self, state: EngineState) -> CheckResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            if not self.stubborn:
                raise
            await self.release.wait()
        return found(HEALTHY)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_probe_that_hangs(virtual_clock: VirtualClock, stubborn: bool) -> None:
    """A probe that gives no answer in time is unhealthy and cancelled; all probes share one deadline."""
    hanging = [Hanging(stubborn=stubborn), Hanging(stubborn=stubborn)]
    async with running_bus(virtual_clock, **probing("3s", a=hanging[0], b=hanging[1], fine=Probe())) as bus:
        asking = asyncio.create_task(bus.health())
        await virtual_clock.settle()
        assert not asking.done()
        assert virtual_clock.timers == [3.0]
        await virtual_clock.advance(2.9)
        assert not asking.done()
        await virtual_clock.advance(0.1)
        report = asking.result()
        assert report.checks["a"] == found(UNHEALTHY, "the probe gave no answer within 3 s")
        assert report.checks["b"] == report.checks["a"]
        assert report.checks["fine"].status is HEALTHY
        assert all(probe.cancelled for probe in hanging)
        for probe in hanging:
            probe.release.set()


async def test_a_quick_report_leaves_no_timer(virtual_clock: VirtualClock) -> None:
    """When all probes answered, the deadline is taken back."""
    async with running_bus(virtual_clock, **probing(fine=Probe())) as bus:
        await bus.health()
        assert virtual_clock.timers == []


async def test_asking_is_cancelled(virtual_clock: VirtualClock) -> None:
    """When whoever asks is cancelled, the probes are, too."""
    hanging = Hanging()
    async with running_bus(virtual_clock, **probing(a=hanging)) as bus:
        asking = asyncio.create_task(bus.health())
        await virtual_clock.settle()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await virtual_clock.settle()
        assert hanging.cancelled
        assert virtual_clock.timers == []


async def test_asking_many_times_at_once() -> None:
    """Health may be asked for by many at once."""
    async with running_bus(**probing(fine=Probe())) as bus:
        reports = await asyncio.gather(*(bus.health() for _ in range(20)))
        assert [report.status for report in reports] == [HEALTHY] * 20


# --- starting and closing ---------------------------------------------------------------------------------


class BrokenStart(Probe):
    repaired = False

    async def start(self) -> None:
        await super().start()
        if not self.repaired:
            raise ConnectionError("no server")


class BrokenClose(Probe):
    async def close(self) -> None:
        await super().close()
        raise ConnectionError("gone already")


async def test_a_probe_that_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    """The bus does not start, with the probe's error, and closes what it started; start may follow again."""
    notes: list[str] = []
    broken = BrokenStart(notes=[])
    bus = make_bus(**probing(first=BrokenClose(notes=notes), second=Probe(notes=notes), broken=broken))
    received = Collecting()
    bus.subscribe(HAPPENED, received.collect)
    with pytest.raises(ConnectionError, match="no server"):
        await bus.start()
    assert notes == ["start", "start", "close", "close"]
    assert broken.notes == ["start"]
    assert "closing" in caplog.text
    assert (await bus.health()).checks["bus"].summary == "the bus is not started"
    broken.repaired = True
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        late = Collecting()
        bus.subscribe(HAPPENED, late.collect)
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert (received.numbers, late.numbers) == ([1, 2], [2])


async def test_a_probe_that_cannot_close(caplog: pytest.LogCaptureFixture) -> None:
    """A probe that fails to close is logged; the bus is closed all the same, with its report."""
    last = Probe()
    bus = make_bus(**probing(broken=BrokenClose(), last=last))
    await bus.start()
    report = await bus.close()
    assert report.completed
    assert last.notes == ["start", "close"]
    assert "gone already" in caplog.text
    assert await bus.close() is report
    with pytest.raises(BusClosed):
        await bus.publish(HAPPENED, happened())


def test_names_of_probes() -> None:
    """No probe may hide the bus's own check, or another probe: both are faults of the configuration."""
    with pytest.raises(ConfigError, match=r"'bus' is the bus's own check @ \$\.bus\.health\.probes"):
        make_bus(**probing(bus=Probe()))
    options = probing(fine=Probe())
    options["health"]["probes"] = ["fine", "fine"]
    with pytest.raises(ConfigError, match=r"the probe 'fine' is listed 2 times @ \$\.bus\.health\.probes"):
        make_bus(**options)


# --- the state that probes see ----------------------------------------------------------------------------


async def test_the_state_of_the_engine() -> None:
    """Probes see what runs, what waits, and what became of everything so far."""
    release = asyncio.Event()
    states: list[EngineState] = []

    class Watching(HealthProbe):
        async def check(self, state: EngineState) -> CheckResult:
            states.append(state)
            return found(HEALTHY)

    async def hold(event: object) -> None:
        await release.wait()

    async def fail_once(event: object, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    async with running_bus(
        **probing(watch=Watching()), worker_pool_size=3, buffer_size=7, overflow_size=5, retry_delay="1ms"
    ) as bus:
        bus.subscribe(HAPPENED, hold, name="hold", concurrency=1)
        bus.subscribe(OTHER, fail_once, name="fail-once")
        for _ in range(3):
            await bus.publish(HAPPENED, happened())
        await bus.publish(OTHER, happened())
        await until(lambda: bus.state().subscriptions[1].handled == 1)
        bus.subscribe("test.#", ignore, name="idle").pause()
        await bus.health()
        release.set()
        (state,) = states
        assert (state.worker_pool_size, state.buffer_size, state.overflow_size) == (3, 7, 5)
        assert (state.running_handlers, state.unsettled, state.published, state.lost) == (1, 3, 4, 0)
        assert state.longest_running_subscription == "hold"
        assert state.longest_running > 0
        hold_state, fail_state, idle_state = state.subscriptions
        assert (hold_state.running, hold_state.queued, hold_state.handled) == (1, 2, 0)
        assert (fail_state.handled, fail_state.failed_attempts, fail_state.retried) == (1, 1, 1)
        assert (idle_state.paused, idle_state.handled) == (True, 0)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="one clock only on this system")
async def test_a_machine_that_slept_hides_no_long_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running time of a handler is right on a machine that was suspended, of which one clock knows."""
    real = time.clock_gettime
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: real(clock) + (3600 if clock == time.CLOCK_BOOTTIME else 0)
    )
    begun, gate = asyncio.Event(), asyncio.Event()

    async def hold(event: Happened) -> None:
        begun.set()
        await gate.wait()

    async with running_bus() as bus:
        bus.subscribe(HAPPENED, hold, name="hold")
        await bus.publish(HAPPENED, happened())
        await begun.wait()
        assert 0 <= bus.state().longest_running < 60
        gate.set()
        await bus.drain()

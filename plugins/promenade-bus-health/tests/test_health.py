from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from bus_core import BuildContext, EngineState, HealthProbe, HealthStatus, SubscriptionState, SystemClock
from bus_core.config.settings import read_settings
from promenade_bus_health import promenade_bus_health_probes
from promenade_bus_testing import VirtualClock


def build(name: str, clock: VirtualClock | SystemClock | None = None, **options: Any) -> HealthProbe:
    """Make a probe the way the bus does: from what the configuration file holds."""
    factory = promenade_bus_health_probes()[name]
    faults: list[str] = []
    settings = read_settings(factory.options, options, f"$.bus.health.{name}", faults)
    assert faults == []
    return factory.build(settings, BuildContext(service="tests", clock=clock or VirtualClock()))


def faults_of(name: str, **options: Any) -> list[str]:
    faults: list[str] = []
    read_settings(promenade_bus_health_probes()[name].options, options, f"$.{name}", faults)
    return faults


def engine(**values: Any) -> EngineState:
    """A snapshot of an engine that has little to do."""
    quiet = {
        "running_handlers": 3,
        "worker_pool_size": 10,
        "unsettled": 12,
        "buffer_size": 1000,
        "overflow_size": 100,
        "overflowed": 0,
        "waiting_publishers": 0,
        "waiting_retries": 0,
        "longest_running": 0.5,
        "longest_running_subscription": "welcome-mail",
        "published": 5000,
        "unrouted": 0,
        "lost": 0,
        "subscriptions": (subscription(),),
    }
    return EngineState(**{**quiet, **values})


def subscription(**values: Any) -> SubscriptionState:
    quiet = {
        "name": "welcome-mail",
        "topic": "identity.user.registered",
        "paused": False,
        "queued": 9,
        "running": 3,
        "waiting_retries": 0,
        "handled": 4988,
        "skipped": 0,
        "failed_attempts": 0,
        "retried": 0,
        "dead_lettered": 0,
        "redriven": 0,
    }
    return SubscriptionState(**{**quiet, **values})


# --- event-loop -------------------------------------------------------------------------------------------


async def test_a_loop_in_time(virtual_clock: VirtualClock) -> None:
    """A loop that calls its timers in time is healthy."""
    probe = build("event-loop", virtual_clock)
    await probe.start()
    await virtual_clock.advance(10)
    result = await probe.check(engine())
    assert result.status is HealthStatus.HEALTHY
    assert result.summary == "the event loop is on time: at most 0 ms in the last 60 s late"
    assert result.figures == {"longest_delay_ms": 0.0, "latest_delay_ms": 0.0, "window_s": 60.0}


@pytest.mark.parametrize(
    ("delay", "status"),
    [
        (0.05, HealthStatus.HEALTHY),
        (0.1, HealthStatus.DEGRADED),
        (0.9, HealthStatus.DEGRADED),
        (1.0, HealthStatus.UNHEALTHY),
        (30.0, HealthStatus.UNHEALTHY),
    ],
)
async def test_a_blocked_loop(virtual_clock: VirtualClock, delay: float, status: HealthStatus) -> None:
    """A loop that was blocked for longer than a threshold has the status of that threshold."""
    probe = build("event-loop", virtual_clock, degraded="90ms", unhealthy="950ms")
    await probe.start()
    await virtual_clock.advance(1)
    virtual_clock.block(0.1 + delay)
    await virtual_clock.advance(0.5)
    result = await probe.check(engine())
    assert result.status is status
    assert result.figures["longest_delay_ms"] == pytest.approx(delay * 1000)
    assert result.figures["latest_delay_ms"] == pytest.approx(0)
    if status is not HealthStatus.HEALTHY:
        assert f"was blocked for up to {delay * 1000:.0f} ms in the last 60 s" in result.summary
        assert "PYTHONASYNCIODEBUG=1" in result.summary


async def test_a_loop_that_was_blocked_until_now(virtual_clock: VirtualClock) -> None:
    """A delay counts even when the check comes before the late timer."""
    probe = build("event-loop", virtual_clock)
    await probe.start()
    virtual_clock.block(2.1)
    result = await probe.check(engine())
    assert result.status is HealthStatus.UNHEALTHY
    assert result.figures["longest_delay_ms"] == pytest.approx(2000)


async def test_delays_are_forgotten(virtual_clock: VirtualClock) -> None:
    """The longest delay of the window counts, and none from before."""
    probe = build("event-loop", virtual_clock, window="10s")
    await probe.start()

    async def longest() -> int:
        return round(float((await probe.check(engine())).figures["longest_delay_ms"]) / 1000)

    virtual_clock.block(5)
    await virtual_clock.advance(4)
    virtual_clock.block(2)
    await virtual_clock.advance(1)
    assert await longest() == 5
    await virtual_clock.advance(4)
    assert await longest() == 2
    await virtual_clock.advance(6)
    assert await longest() == 0


async def test_the_timer_is_held_and_freed(virtual_clock: VirtualClock) -> None:
    """The probe holds one timer between start and close, and none before and after."""
    probe = build("event-loop", virtual_clock)
    assert virtual_clock.timers == []
    await probe.start()
    await probe.start()
    await virtual_clock.advance(5)
    assert len(virtual_clock.timers) == 1
    await probe.close()
    await probe.close()
    assert virtual_clock.timers == []


async def test_start_after_close(virtual_clock: VirtualClock) -> None:
    """A probe that is started again begins with a clean slate."""
    probe = build("event-loop", virtual_clock)
    await probe.start()
    virtual_clock.block(5)
    await virtual_clock.advance(1)
    await probe.close()
    await virtual_clock.advance(1)
    await probe.start()
    await virtual_clock.advance(1)
    assert (await probe.check(engine())).status is HealthStatus.HEALTHY


async def test_a_probe_that_is_not_started() -> None:
    """Before its start the probe measures nothing, and the check is degraded."""
    result = await build("event-loop").check(engine())
    assert result.status is HealthStatus.DEGRADED
    assert "not started" in result.summary


def test_the_loop_can_end() -> None:
    """A probe that nobody closed does not keep the event loop from closing."""

    async def main() -> HealthStatus:
        probe = build("event-loop", SystemClock())
        await probe.start()
        return (await probe.check(engine())).status

    assert asyncio.run(main()) is HealthStatus.HEALTHY


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"degraded": "2s"}, "degraded must be at most unhealthy"),
        ({"window": "50ms"}, "interval must be at most window"),
        ({"interval": 0}, "interval must be a number above 0"),
        ({"unhealthy": "soon"}, "'soon'"),
        ({"lag": 1}, "unknown key 'lag'"),
    ],
)
def test_faulty_options_of_event_loop(options: dict[str, Any], fault: str) -> None:
    """Options that make no sense are faults with their path."""
    found = faults_of("event-loop", **options)
    assert any(fault in text and "@ $.event-loop" in text for text in found), found


# --- engine -----------------------------------------------------------------------------------------------


async def test_a_quiet_engine() -> None:
    """An engine that keeps up is healthy, and says what it has in hand."""
    result = await build("engine").check(engine())
    assert result.status is HealthStatus.HEALTHY
    assert result.summary == (
        "3 of 10 workers are busy, 12 of 1,000 events are in the buffer, nothing is lost"
    )
    assert result.figures["unsettled"] == 12
    assert result.figures["dead_lettered"] == 0


@pytest.mark.parametrize(
    ("state", "status", "summary"),
    [
        (
            {"lost": 3},
            HealthStatus.DEGRADED,
            "lost=3: events and dead letters lost since the start; "
            "the log of 'promenade.bus' names them (search for 'lost')",
        ),
        (
            {
                "unsettled": 930,
                "subscriptions": (subscription(queued=20), subscription(name="audit", queued=700)),
            },
            HealthStatus.DEGRADED,
            "the buffer holds 930 of 1,000 events: handlers are slower than publishers; most events "
            "wait for 'audit' (700); raise 'bus.worker_pool_size' or make handlers faster",
        ),
        (
            {"unsettled": 800, "subscriptions": ()},
            HealthStatus.DEGRADED,
            "the buffer holds 800 of 1,000 events: handlers are slower than publishers; "
            "raise 'bus.worker_pool_size' or make handlers faster",
        ),
        (
            {"unsettled": 1001},
            HealthStatus.DEGRADED,
            "handlers have published 1 event over the full buffer (at 100 their publish raises BufferFull): "
            "they publish more events than are handled; most events wait for 'welcome-mail' (9)",
        ),
        (
            {"unsettled": 1050},
            HealthStatus.UNHEALTHY,
            "handlers have published 50 events over the full buffer (at 100 their publish raises BufferFull)"
            ": they publish more events than are handled; most events wait for 'welcome-mail' (9)",
        ),
        (
            {"waiting_publishers": 4, "unsettled": 700},
            HealthStatus.DEGRADED,
            "4 callers wait in publish for room in the buffer (700 of 1,000 events) until handlers finish",
        ),
        (
            {"longest_running": 60.0},
            HealthStatus.DEGRADED,
            "a handler of 'welcome-mail' has been running for 60 s (3 of 10 workers are busy): "
            "find out why it waits, and give it a timeout",
        ),
        (
            {"longest_running": 601.0},
            HealthStatus.UNHEALTHY,
            "a handler of 'welcome-mail' has been running for 601 s (3 of 10 workers are busy): "
            "find out why it waits, and give it a timeout",
        ),
        (
            {"subscriptions": (subscription(queued=1000),)},
            HealthStatus.DEGRADED,
            "1,000 events wait for 'welcome-mail': make its handler faster, or raise its concurrency",
        ),
        (
            {"subscriptions": (subscription(paused=True, queued=2000),)},
            HealthStatus.DEGRADED,
            "'welcome-mail' is paused, and 2,000 events wait for it: call resume()",
        ),
    ],
)
async def test_one_problem(state: dict[str, Any], status: HealthStatus, summary: str) -> None:
    """Each problem has its status, and a sentence that says what is wrong, where, and what to do."""
    result = await build("engine").check(engine(**state))
    assert (result.status, result.summary) == (status, summary)


async def test_the_worst_comes_first() -> None:
    """With several problems the status is that of the worst, and all are named, the worst first."""
    state = engine(lost=1, longest_running=700.0, subscriptions=(subscription(paused=True),))
    result = await build("engine").check(state)
    assert result.status is HealthStatus.UNHEALTHY
    first, second, third = result.summary.split(". ")
    assert "running for 700 s" in first
    assert "lost=1" in second
    assert "paused" in third


async def test_thresholds() -> None:
    """Every threshold can be set."""
    probe = build(
        "engine",
        buffer_fill=1.0,
        overflow_fill=1.0,
        waiting_publishers=10,
        handler_degraded="10m",
        handler_unhealthy="1h",
        backlog=5000,
        paused_allowed=True,
    )
    busy = engine(
        unsettled=999,
        waiting_publishers=9,
        longest_running=599.0,
        subscriptions=(subscription(queued=4999), subscription(name="audit", paused=True)),
    )
    assert (await probe.check(busy)).status is HealthStatus.HEALTHY
    assert (await probe.check(engine(unsettled=1099))).status is HealthStatus.DEGRADED
    assert (await probe.check(engine(unsettled=1100))).status is HealthStatus.UNHEALTHY


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"buffer_fill": 80}, "buffer_fill must be above 0 and at most 1"),
        ({"overflow_fill": 0.0}, "overflow_fill must be above 0 and at most 1"),
        ({"backlog": 0}, "backlog must be a number above 0"),
        ({"handler_degraded": "1h"}, "handler_degraded must be at most handler_unhealthy"),
        ({"buffer": 1}, "unknown key 'buffer'"),
    ],
)
def test_faulty_options_of_engine(options: dict[str, Any], fault: str) -> None:
    """Options that make no sense are faults with their path."""
    found = faults_of("engine", **options)
    assert any(fault in text and "@ $.engine" in text for text in found), found


# --- as a plugin ------------------------------------------------------------------------------------------


def test_the_plugin_is_light() -> None:
    """The offer of the plugin imports its options, and none of its probes."""
    script = (
        "import sys, promenade_bus_health as plugin\n"
        "plugin.promenade_bus_health_probes()\n"
        "print(sorted(name for name in sys.modules if name.startswith(plugin.__name__)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = ["promenade_bus_health", "promenade_bus_health.building", "promenade_bus_health.config"]
    assert done.stdout.strip() == str(names)

"""The probes ``consumption``, ``losses``, ``retries``, ``quarantined-plugins`` and ``clock``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import attrs
import httpx
import pytest

import promenade_bus_health
from bus_core import (
    AdapterError,
    BuildContext,
    CheckResult,
    EngineState,
    Event,
    ExponentialRetry,
    Features,
    HealthProbe,
    HealthStatus,
    Postpone,
    SubscriptionState,
    Topic,
    event,
)
from bus_core.abc import GroupFigures
from bus_core.config.settings import read_settings
from promenade_bus_health import promenade_bus_health_probes
from promenade_bus_health.sampling import Sampler, Worst
from promenade_bus_http import http_app
from promenade_bus_testing import VirtualClock
from support.buses import make_bus, until

HEALTHY, DEGRADED, UNHEALTHY = HealthStatus


@event
class Ordered(Event):
    number: int = 0


ORDERED = Topic("shop.order.placed", Ordered)
AN_ORDER = Ordered(aggregate_id=UUID(int=1))


class TimeOfDay(VirtualClock):
    """A virtual clock whose time of day can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.set_by)


def build(
    name: str, clock: VirtualClock, context: dict[str, Any] | None = None, **options: Any
) -> HealthProbe:
    factory = promenade_bus_health_probes()[name]
    faults: list[str] = []
    settings = read_settings(factory.options, options, f"$.{name}", faults)
    assert faults == []
    return factory.build(settings, BuildContext(service="shop", clock=clock, **(context or {})))


def faults_of(name: str, **options: Any) -> list[str]:
    faults: list[str] = []
    read_settings(promenade_bus_health_probes()[name].options, options, "$", faults)
    return faults


MAIL = SubscriptionState(
    name="mail",
    topic="shop.#",
    paused=False,
    queued=0,
    running=0,
    waiting_retries=0,
    handled=0,
    skipped=0,
    failed_attempts=0,
    retried=0,
    dead_lettered=0,
    redriven=0,
)


def state(*subscriptions: SubscriptionState, **values: Any) -> EngineState:
    quiet: dict[str, Any] = {
        field.name: 0 for field in attrs.fields(EngineState) if field.default is attrs.NOTHING
    }
    return EngineState(**{**quiet, "subscriptions": subscriptions, **values})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("consumption", {"degraded": "2m", "unhealthy": "1m"}),
        ("losses", {"degraded": 2, "unhealthy": 1}),
        ("retries", {"degraded": "2m", "unhealthy": "1m"}),
        ("quarantined-plugins", {"degraded": 0}),
        ("clock", {"interval": "2m", "window": "1m"}),
    ],
)
def test_thresholds_that_make_no_sense_are_faults(name: str, options: dict[str, Any]) -> None:
    """Thresholds in the wrong order, and zeros, are refused when the file is read."""
    assert len(faults_of(name, **options)) == 1
    assert faults_of(name) == []


# --- consumption ------------------------------------------------------------------------------------------


async def test_work_without_progress(virtual_clock: VirtualClock) -> None:
    """A subscription with work and no outcome is degraded, then unhealthy; an outcome makes it healthy."""
    probe = build("consumption", virtual_clock, degraded="10s", unhealthy="30s")
    at_work = attrs.evolve(MAIL, queued=3, running=1, handled=7)
    assert (await probe.check(state(at_work))).status is HEALTHY
    await virtual_clock.advance(9)
    assert (await probe.check(state(at_work))).status is HEALTHY
    await virtual_clock.advance(2)
    late = await probe.check(state(at_work))
    assert late.status is DEGRADED
    assert late.summary.startswith(
        "'mail' has settled nothing for 11s, and 4 events are in its hands (the threshold is 10s)"
    )
    assert late.figures == {"longest_without_progress_s": 11.0}
    await virtual_clock.advance(20)
    assert (await probe.check(state(at_work))).status is UNHEALTHY
    assert (await probe.check(state(attrs.evolve(at_work, failed_attempts=1)))).status is HEALTHY


@pytest.mark.parametrize("change", [{"paused": True}, {"queued": 0}])
async def test_who_has_nothing_to_do_makes_no_progress(
    virtual_clock: VirtualClock, change: dict[str, Any]
) -> None:
    """Time without work, and in a pause, does not count."""
    probe = build("consumption", virtual_clock, degraded="10s")
    at_work = attrs.evolve(MAIL, queued=3)
    await probe.check(state(at_work))
    await virtual_clock.advance(9)
    await probe.check(state(attrs.evolve(at_work, **change)))
    await virtual_clock.advance(9)
    assert (await probe.check(state(at_work))).status is HEALTHY
    await virtual_clock.advance(9)
    assert (await probe.check(state(at_work))).status is HEALTHY


class Storage:
    """An adapter outside of the process, of which the test decides the figures."""

    features = Features(durable=True, groups=True, admin=True)

    def __init__(self) -> None:
        self.unread = 0
        self.settled = 0
        self.fails = False
        self.asked = 0

    @property
    def admin(self) -> Storage:
        return self

    async def groups(self) -> Sequence[GroupFigures]:
        self.asked += 1
        if self.fails:
            raise AdapterError("gone")
        mine = GroupFigures(
            group="shop.mail",
            subscription="mail",
            topic="shop.#",
            instances=2,
            published=self.settled + self.unread,
            backlog=self.unread,
            lag=self.unread,
            in_flight=0,
            retries=0,
            dead=0,
            oldest=None,
        )
        return [mine, attrs.evolve(mine, group="other.mail", lag=99)]


async def looked(probe: HealthProbe, storage: Storage) -> CheckResult:
    """A check that knows the present figures of the storage: the one before has asked for them."""
    asked = storage.asked
    await probe.check(state(MAIL))
    await until(lambda: storage.asked > asked)
    await asyncio.sleep(0)
    return await probe.check(state(MAIL))


async def test_events_that_nobody_receives(virtual_clock: VirtualClock) -> None:
    """Events in the storage are work; progress is what any instance of the group has settled."""
    storage = Storage()
    probe = build("consumption", virtual_clock, {"adapter": storage}, degraded="10s", interval="1s")
    storage.unread = 5
    assert (await looked(probe, storage)).status is HEALTHY
    await virtual_clock.advance(11)
    late = await looked(probe, storage)
    assert late.status is DEGRADED
    assert "'mail' has settled nothing for 11s, and 5 events wait in the storage" in late.summary
    await virtual_clock.advance(2)
    storage.settled += 1  # by another instance
    assert (await looked(probe, storage)).status is HEALTHY
    await virtual_clock.advance(9)
    storage.fails = True
    assert (await looked(probe, storage)).status is HEALTHY
    await virtual_clock.advance(9)
    assert (await looked(probe, storage)).status is HEALTHY
    await probe.close()


async def test_readiness_turns_and_comes_back() -> None:
    """A handler that hangs turns ``/readyz``, which names the cause; it is ready again when it goes on."""
    limits = {"degraded": "20ms", "unhealthy": "40ms"}
    go_on = asyncio.Event()

    async def hang(event: Ordered) -> None:
        await go_on.wait()

    async with make_bus(plugins=[promenade_bus_health], health={"probes": [{"consumption": limits}]}) as bus:
        bus.subscribe(ORDERED, hang, name="mail")
        transport = httpx.ASGITransport(app=http_app(bus))
        async with httpx.AsyncClient(transport=transport, base_url="http://bus") as client:

            async def until_status(status: int) -> Any:
                async with asyncio.timeout(10):
                    while True:
                        answer = await client.get("/readyz")
                        if answer.status_code == status:
                            return answer.json()

            assert (await client.get("/readyz")).status_code == 200
            await bus.publish(ORDERED, AN_ORDER)
            [cause] = (await until_status(503))["causes"]
            assert (cause["check"], cause["value"]) == ("consumption", "unhealthy")
            assert "'mail' has settled nothing for" in cause["summary"]
            assert "(the threshold is 40ms)" in cause["summary"]
            go_on.set()
            assert await until_status(200) == {"status": "ready"}


# --- losses -----------------------------------------------------------------------------------------------


async def test_losses_of_a_window(virtual_clock: VirtualClock) -> None:
    """Losses count while they are within the window; after it the check is healthy, and names the total."""
    probe = build("losses", virtual_clock, unhealthy=3, window="1m")
    assert (await probe.check(state())).summary == "nothing is lost"
    await virtual_clock.advance(10)
    one = await probe.check(state(lost=1))
    assert (one.status, one.figures["lost_in_window"]) == (DEGRADED, 1)
    assert one.summary.startswith("lost 1 event or dead letter within 1m (the threshold is 1)")
    await virtual_clock.advance(30)
    assert (await probe.check(state(lost=3))).status is UNHEALTHY
    await virtual_clock.advance(31)
    fewer = await probe.check(state(lost=3))
    assert (fewer.status, fewer.figures["lost_in_window"]) == (DEGRADED, 2)
    await virtual_clock.advance(60)
    after = await probe.check(state(lost=3))
    assert (after.status, after.summary) == (HEALTHY, "no recent losses; 3 since the start")


# --- retries ----------------------------------------------------------------------------------------------


async def test_old_retries(virtual_clock: VirtualClock) -> None:
    """The time since the first failure of the oldest waiting event counts, and their number."""
    limits = {"degraded": "1m", "unhealthy": "10m", "waiting": 2}
    bus = make_bus(virtual_clock, plugins=[promenade_bus_health], health={"probes": [{"retries": limits}]})

    async def fail(event: Ordered) -> None:
        raise ConnectionError("refused")

    policy = ExponentialRetry(attempts=100, delay=40, max_delay=40)
    bus.subscribe(ORDERED, fail, name="mail", retry=policy)
    await bus.start()
    try:
        await bus.publish(ORDERED, AN_ORDER)
        await until(lambda: bool(bus.state().waiting_retries))
        found = (await bus.health()).checks["retries"]
        assert (found.status, found.summary) == (HEALTHY, "1 event waits for a retry, within the thresholds")
        await virtual_clock.advance(70)
        found = (await bus.health()).checks["retries"]
        assert found.status is DEGRADED
        assert found.summary.startswith("an event of 'mail' has been failing for 1m10s (the threshold is 1m)")
        assert found.figures == {"waiting_retries": 1, "postponed": 0, "oldest_retry_s": 70.0}
        await bus.publish(ORDERED, AN_ORDER)
        await until(lambda: bus.state().waiting_retries == 2)
        assert (
            "2 events wait for a retry (the threshold is 2)" in (await bus.health()).checks["retries"].summary
        )
    finally:
        await virtual_clock.run(bus.close(0))


async def test_without_retries(virtual_clock: VirtualClock) -> None:
    """An idle bus is healthy."""
    assert (await build("retries", virtual_clock).check(state())).summary == "no event waits for a retry"


async def test_postponed_events_are_no_retries(virtual_clock: VirtualClock) -> None:
    """Events that a limit or an open circuit postpones are no failures: only a figure tells their number."""
    limits = {"degraded": "1m", "waiting": 2}
    bus = make_bus(virtual_clock, plugins=[promenade_bus_health], health={"probes": [{"retries": limits}]})

    async def postpone_most(event: Ordered) -> None:
        if event.number == 0:
            raise ConnectionError("refused")
        raise Postpone("the limit is reached", after=1000)

    policy = ExponentialRetry(attempts=100, delay=1000, max_delay=1000)
    bus.subscribe(ORDERED, postpone_most, name="mail", retry=policy)
    await bus.start()
    try:
        for number in range(4):
            await bus.publish(ORDERED, Ordered(aggregate_id=UUID(int=1), number=number))
        await until(lambda: bus.state().waiting_retries == 4)
        found = (await bus.health()).checks["retries"]
        assert (found.status, found.summary) == (HEALTHY, "1 event waits for a retry, within the thresholds")
        assert found.figures == {"waiting_retries": 1, "postponed": 3, "oldest_retry_s": 0.0}
        await virtual_clock.advance(1000)
        await until(lambda: bus.state().waiting_retries == 4)
        assert bus.state().waiting_postponed == 3
    finally:
        await virtual_clock.run(bus.close(0))


# --- quarantined-plugins ----------------------------------------------------------------------------------


async def test_plugins_that_cannot_be_loaded(virtual_clock: VirtualClock) -> None:
    """A quarantined plugin degrades with its cause, unless it is ignored."""
    context = {"quarantined": {"broken": "ImportError: no\nmodule", "old": "it needs promenade-bus 2"}}
    found = await build("quarantined-plugins", virtual_clock, context, unhealthy=2).check(state())
    assert (found.status, found.figures) == (UNHEALTHY, {"quarantined": 2})
    assert "'broken' (ImportError: no\\nmodule), 'old' (it needs promenade-bus 2)" in found.summary
    found = await build("quarantined-plugins", virtual_clock, context, ignore=["old", "broken"]).check(
        state()
    )
    assert (found.status, found.summary) == (HEALTHY, "every plugin is loaded")


async def test_the_bus_tells_its_probes_of_quarantines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe gets the plugins that discovery has left out."""
    from bus_core.plugins.registries import Plugins

    monkeypatch.setattr(Plugins, "quarantined", property(lambda self: {"broken": "SyntaxError"}))
    bus = make_bus(plugins=[promenade_bus_health], health={"probes": ["quarantined-plugins"]})
    async with bus:
        found = (await bus.health()).checks["quarantined-plugins"]
    assert "1 plugin cannot be loaded (the threshold is 1): 'broken' (SyntaxError)" in found.summary


# --- sampling ---------------------------------------------------------------------------------------------


def test_the_worst_sample_of_a_window() -> None:
    """The sample farthest from zero counts until its window is over, and then the worst of those after it."""
    worst = Worst(10)
    assert worst.at(0) == 0
    for now, sample in enumerate((3.0, -5.0, 1.0, -2.0)):
        worst.add(now, sample)
    assert [worst.at(now) for now in (3, 11, 12, 13, 14)] == [-5, -5, -2, -2, 0]
    worst.add(15, 4.0)
    worst.clear()
    assert worst.at(15) == 0


async def test_a_sampler_can_be_stopped_and_started(virtual_clock: VirtualClock) -> None:
    """It samples between start and stop only, and again after a second start."""
    times: list[float] = []
    began = virtual_clock.monotonic()

    def sample() -> None:
        times.append(virtual_clock.monotonic() - began)

    sampler = Sampler(virtual_clock, 1, sample)
    assert not sampler.is_running
    sampler.start()
    await virtual_clock.advance(2.5)
    assert sampler.due - began == pytest.approx(3)
    sampler.stop()
    await virtual_clock.advance(5)
    sampler.start()
    await virtual_clock.advance(1)
    sampler.stop()
    sampler.stop()
    assert not sampler.is_running
    assert times == pytest.approx([1, 2, 8.5])


# --- clock ------------------------------------------------------------------------------------------------


async def test_steps_of_the_time() -> None:
    """A step in either direction degrades for the window; slow adjustments do not."""
    clock = TimeOfDay()
    probe = build("clock", clock, unhealthy="1h", window="1m")
    assert (await probe.check(state())).status is DEGRADED  # it was not started
    await probe.start()
    for _ in range(100):
        clock.set_by += 0.04
        await clock.advance(1)
    assert (await probe.check(state())).status is HEALTHY
    clock.set_by -= 5
    found = await probe.check(state())
    assert found.status is DEGRADED
    assert found.summary.startswith("the system's time went back by 5s (the threshold is 2s)")
    clock.set_by += 7200
    await clock.advance(2)
    assert (await probe.check(state())).status is UNHEALTHY
    await clock.advance(61)
    assert (await probe.check(state())).summary == "the system's time has not been set"
    await probe.close()
    assert clock.timers == []

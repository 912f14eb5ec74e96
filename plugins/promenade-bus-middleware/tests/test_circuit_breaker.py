from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import attrs
import pytest

import promenade_bus_middleware
from bus_core import (
    BaseEvent,
    Delivery,
    HandlerTimeout,
    HealthStatus,
    PermanentError,
    Postpone,
    SubscriptionSpec,
    WatchedMiddleware,
)
from promenade_bus_testing import VirtualClock, isolated_bus, recording
from support.middleware import build, delivered, failing, faults_of, hang, succeed

SPEC = SubscriptionSpec(name="mail", group="shop.mail", topic="identity.user.registered")


class Circuit:
    """The circuit of one subscription, and attempts that end as the test wants."""

    def __init__(self, clock: VirtualClock, **options: Any) -> None:
        made = build("circuit-breaker", clock, **options)
        assert isinstance(made, WatchedMiddleware)
        self.middleware = made
        guard = made.of_subscription(SPEC)
        assert guard is not None
        self.guard = guard
        self.clock = clock

    async def attempt(self, error: BaseException | None = None) -> float | None:
        """Makes an attempt; the seconds of the postponement if the handler was not called."""
        called = []

        async def handler(envelope: Any) -> None:
            called.append(envelope)
            await (succeed if error is None else failing(error))(envelope)

        attempt = asyncio.ensure_future(self.guard(handler)(delivered(self.clock)))
        await asyncio.wait([attempt])
        raised = asyncio.CancelledError() if attempt.cancelled() else attempt.exception()
        if called:
            assert type(raised) is type(error)
            return None
        assert isinstance(raised, Postpone)
        return raised.after

    async def fail(self, times: int) -> None:
        for _ in range(times):
            assert await self.attempt(OSError("no")) is None


async def test_it_opens_and_closes(virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """After enough failures attempts are postponed; a probe that succeeds closes the circuit."""
    caplog.set_level(logging.INFO, "promenade.bus.events")
    circuit = Circuit(virtual_clock, failures=3, open_for="30s")
    await circuit.fail(3)
    await virtual_clock.advance(10)
    assert await circuit.attempt() == 20
    check = circuit.middleware.check()
    assert check is not None
    assert check.status is HealthStatus.DEGRADED
    assert check.summary == (
        "the circuit of 'mail' is open because 3 of 3 attempts failed within 30s, the last with OSError; "
        "the next probe is in 20s"
    )
    assert check.figures == {"opened mail": 1, "postponed mail": 1}
    await virtual_clock.advance(20)
    check = circuit.middleware.check()
    assert check is not None
    assert check.summary.endswith("; it is half open: the next event is a probe")
    assert await circuit.attempt() is None
    check = circuit.middleware.check()
    assert check is not None
    assert check.status is HealthStatus.HEALTHY
    assert [record.getMessage() for record in caplog.records] == [
        "the circuit is open: 3 of 3 attempts failed within 30s, the last with OSError (subscription=mail)",
        "the circuit is closed again (subscription=mail)",
    ]


async def test_a_failed_probe_opens_it_again(virtual_clock: VirtualClock) -> None:
    """One failed probe is enough to open it for the whole time again; the old failures do not count later."""
    circuit = Circuit(virtual_clock, failures=2, open_for="30s", window="10m")
    await circuit.fail(2)
    await virtual_clock.advance(30)
    await circuit.fail(1)
    assert await circuit.attempt() == 30
    await virtual_clock.advance(30)
    assert await circuit.attempt() is None
    await circuit.fail(1)
    assert await circuit.attempt() is None


async def test_the_number_of_probes_is_bounded(virtual_clock: VirtualClock) -> None:
    """Half open, no more than the probes run at once, and all of them have to succeed."""
    circuit = Circuit(virtual_clock, failures=1, open_for="30s", probes=2)
    await circuit.fail(1)
    await virtual_clock.advance(30)
    running = [asyncio.ensure_future(circuit.guard(hang)(delivered(virtual_clock))) for _ in range(2)]
    await virtual_clock.advance(0)
    assert await circuit.attempt() == 3
    for probe in running:  # a cancelled probe says nothing
        probe.cancel()
    await asyncio.wait(running)
    assert await circuit.attempt() is None
    check = circuit.middleware.check()
    assert check is not None
    assert check.status is HealthStatus.DEGRADED
    assert await circuit.attempt() is None
    check = circuit.middleware.check()
    assert check is not None
    assert check.status is HealthStatus.HEALTHY


async def test_a_late_result_is_ignored(virtual_clock: VirtualClock) -> None:
    """An attempt that began before the circuit opened neither closes nor opens it."""
    circuit = Circuit(virtual_clock, failures=1, open_for="30s")
    gate = asyncio.Event()

    async def slow(envelope: Any) -> None:
        await gate.wait()

    late = asyncio.ensure_future(circuit.guard(slow)(delivered(virtual_clock)))
    await virtual_clock.advance(0)
    await circuit.fail(1)
    await virtual_clock.advance(30)
    running = asyncio.ensure_future(circuit.guard(hang)(delivered(virtual_clock)))
    await virtual_clock.advance(0)
    gate.set()
    await late
    assert await circuit.attempt() == 3
    running.cancel()
    await asyncio.wait([running])


async def test_share_and_window(virtual_clock: VirtualClock) -> None:
    """It stays closed while fewer than the share fail, and forgets attempts beyond the window."""
    circuit = Circuit(virtual_clock, failures=2, ratio=0.5, window="10s")
    for _ in range(3):
        await circuit.attempt()
    await circuit.fail(2)
    assert await circuit.attempt() is None
    await virtual_clock.advance(11)
    await circuit.fail(1)
    await virtual_clock.advance(11)
    await circuit.fail(1)
    assert await circuit.attempt() is None
    await circuit.fail(1)
    assert await circuit.attempt() == 30


@pytest.mark.parametrize(
    ("errors", "error", "counts"),
    [
        ([], ValueError(), True),
        ([], HandlerTimeout("mail", 1), True),
        ([], PermanentError("bad"), False),
        ([], Postpone(after=1), False),
        ([], asyncio.CancelledError(), False),
        (["OSError"], ConnectionRefusedError(), True),
        (["builtins.OSError"], ConnectionRefusedError(), True),
        (["OSError"], ValueError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_errors_that_count(
    virtual_clock: VirtualClock, errors: list[str], error: BaseException, counts: bool
) -> None:
    """Errors that repeat for this event only do not count, nor such that are not listed."""
    circuit = Circuit(virtual_clock, failures=1, errors=errors)
    await circuit.attempt(error)
    assert (await circuit.attempt() is not None) is counts


async def test_an_open_circuit_burns_no_attempts(virtual_clock: VirtualClock) -> None:
    """While the server is down events wait for it, and no event becomes a dead letter."""
    is_down, attempts = True, []
    breaker = {"circuit-breaker": {"failures": 2, "open_for": "30s"}}
    settings = {"strict_topics": False, "retry_attempts": 3, "middleware": [breaker]}
    plugins = [promenade_bus_middleware]
    async with isolated_bus(plugins=plugins, clock=virtual_clock, **settings) as bus, recording(bus) as seen:
        seen.failures.expect(ConnectionError)

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if is_down:
                raise ConnectionError

        for _ in range(20):
            await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await virtual_clock.advance(45)
        assert len(attempts) == 3
        assert (await bus.health()).checks["middleware circuit-breaker"].status is HealthStatus.DEGRADED
        is_down = False
        await virtual_clock.advance(60)
        state = bus.state().subscriptions[0]
        assert await bus.dead_letters.count() == 0
    assert (state.failed_attempts, state.handled) == (3, 20)
    assert len(attempts) == 23


async def test_chosen_subscriptions(virtual_clock: VirtualClock) -> None:
    """Subscriptions that are not listed have no circuit, and one does not open another."""
    middleware = build("circuit-breaker", virtual_clock, failures=1, subscriptions=["mail", "audit"])
    assert isinstance(middleware, WatchedMiddleware)
    assert middleware.of_subscription(attrs.evolve(SPEC, name="other")) is None
    mail = middleware.of_subscription(SPEC)
    audit = middleware.of_subscription(attrs.evolve(SPEC, name="audit"))
    assert mail is not None
    assert audit is not None
    with pytest.raises(OSError, match="no"):
        await mail(failing(OSError("no")))(delivered(virtual_clock))
    await audit(succeed)(delivered(virtual_clock))


def test_faulty_options() -> None:
    """Thresholds have to make sense."""
    assert len(faults_of("circuit-breaker", failures=0, ratio=2, window=0, open_for=0, probes=0)) == 5

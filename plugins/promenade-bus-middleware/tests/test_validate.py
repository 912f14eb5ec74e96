from __future__ import annotations

from uuid import uuid4

import pytest

import promenade_bus_middleware
from bus_core import BaseEvent, PermanentError, PluginError, PublishFailed, WatchedMiddleware
from promenade_bus_testing import VirtualClock, isolated_bus, recording
from promenade_bus_testing.buses import make_bus
from support.middleware import build, delivered, faults_of, published, succeed

THIS = "support.middleware_validators"


async def test_a_refused_publish() -> None:
    """The publisher gets PublishFailed with the reason, and the event is not published."""
    chain = {"publish": [{"validate": {"validator": f"{THIS}:check_order", "topics": ["sales.#"]}}]}
    async with isolated_bus(plugins=[promenade_bus_middleware], strict_topics=False, middleware=chain) as bus:
        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4(), data={"lines": 1}))
        await bus.publish("crm.order.placed", BaseEvent("order.placed", uuid4()))
        with pytest.raises(PublishFailed) as refused:
            await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        assert str(refused.value) == (
            f"the validator '{THIS}:check_order' refused the event; "
            "it is not published on 'sales.order.placed'"
        )
        assert str(refused.value.__cause__) == "an order has lines"
        assert not refused.value.transient
        assert bus.published() == {"sales.order.placed": 1, "crm.order.placed": 1}
        (count,) = bus.state().middleware
        assert (count.subject, count.outcome, count.events) == ("sales.order.placed", "refused", 1)


async def test_a_refused_event_is_a_dead_letter() -> None:
    """In the consume chain a refused event is a dead letter at once, and the handler does not see it."""
    handled = []
    chain = [{"validate": {"validator": f"{THIS}:check_order"}}]
    plugins = [promenade_bus_middleware]
    async with (
        isolated_bus(plugins=plugins, strict_topics=False, middleware=chain) as bus,
        recording(bus) as r,
    ):
        r.failures.expect(PermanentError)

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent) -> None:
            handled.append(event)

        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
        assert (await bus.health()).checks["middleware validate"].figures == {"refused mail": 1}
    assert handled == []
    assert letter.reason == "the handler raised PermanentError"
    assert len(letter.attempts) == 1
    assert "ValueError: an order has lines" in letter.attempts[0].error


async def test_other_ways_to_refuse(virtual_clock: VirtualClock) -> None:
    """False refuses, and an async validator refuses everything rather than checking nothing."""
    for name, cause in (("is_good", type(None)), ("in_async", TypeError)):
        validate = build("validate", virtual_clock, validator=f"{THIS}:{name}")
        with pytest.raises(PublishFailed) as refused:
            await validate(succeed)(published())
        assert type(refused.value.__cause__) is cause
        with pytest.raises(PermanentError):
            await validate(succeed)(delivered(virtual_clock))


async def test_counted_topics_are_bounded(virtual_clock: VirtualClock) -> None:
    """However many topics there are, only a thousand are counted apart."""
    validate = build("validate", virtual_clock, validator=f"{THIS}:is_good")
    for number in range(1005):
        with pytest.raises(PublishFailed):
            await validate(succeed)(published(f"sales.order.n{number}"))
    assert isinstance(validate, WatchedMiddleware)
    counts = validate.counts()
    assert len(counts) == 1001
    assert counts["(other)", "refused"] == 5


def test_topics_that_are_not_chosen(virtual_clock: VirtualClock) -> None:
    """Topics that are not chosen do not pass through the middleware at all."""
    validate = build("validate", virtual_clock, validator=f"{THIS}:is_good", topics=["sales.*"])
    assert isinstance(validate, WatchedMiddleware)
    assert validate.of_topic("crm.order.placed") is None
    assert validate.of_topic("sales.order") is validate


@pytest.mark.parametrize(
    ("name", "fault"),
    [("nowhere.at.all:check", "No module named 'nowhere'"), (f"{THIS}:nothing", "has no function 'nothing'")],
)
def test_a_validator_that_is_not_there(name: str, fault: str) -> None:
    """Opening the bus fails when there is no such function."""
    with pytest.raises(PluginError, match=fault):
        make_bus(plugins=[promenade_bus_middleware], middleware=[{"validate": {"validator": name}}])


def test_faulty_options() -> None:
    """The name has a module and a function."""
    (fault,) = faults_of("validate", validator="check_order")
    assert "validator must be like 'package.module:function', got 'check_order'" in fault
    assert len(faults_of("validate")) == 1

"""``promenade-bus explain``: the path of an event through the bus, without starting anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Any
Module = Callable[[str], str]

APP = """
CONFIG["bus"] |= {
    "worker_pool_size": 4,
    "middleware": {"consume": ["logging", {"timeout": {"seconds": 30}}], "publish": ["logging"]},
    "retry_attempts": 5,
    "topics": {"shop.order.*": {"retry": {"attempts": 9}}},
    "health": {"probes": ["engine"]},
}
bus = open_bus(CONFIG)

@event
class OrderPaid(Event): ...

ORDER_PAID = Topic("shop.order.paid", OrderPaid)
ADDED = Topic("shop.cart.added", OrderPaid)

@bus.subscribe(ORDER_PLACED, name="packing", concurrency=2, timeout=3, give_up_on=KeyError)
async def pack(event): ...

@bus.subscribe(ORDER_PAID, name="sending", retry=FixedRetry(attempts=2, delay=0.5), ordered=True)
async def send(event): ...

@bus.subscribe(ADDED, name="cart")
async def cart(event): ...

@bus.subscribe("shop.#", name="audit", mode="broadcast")
async def audit(event): ...
"""


def test_every_part_is_told_with_its_origin(run: Run, module: Module) -> None:
    """Adapter, serializer, middleware in order, probes and retry policies each name their distribution."""
    found = run.json("explain", "--app", f"{module(APP)}:bus")
    assert found["service"] == "shop"
    assert found["adapter"]["name"] == "memory"
    assert found["adapter"]["origin"].startswith("promenade-bus-memory ")
    assert found["serializer"]["origin"].startswith("promenade-bus ")
    assert [part["name"] for part in found["consume_middleware"]] == ["logging", "timeout"]
    assert found["consume_middleware"][1]["options"] == {"seconds": "30s"}
    assert found["consume_middleware"][1]["origin"].startswith("promenade-bus-middleware ")
    assert [part["name"] for part in found["publish_middleware"]] == ["logging"]
    assert found["health_probes"][0]["origin"].startswith("promenade-bus-health ")


def test_an_order_that_defeats_a_middleware(run: Run, module: Module) -> None:
    """Warnings about the order of middleware stand below the chains."""
    source = (
        'CONFIG["bus"]["middleware"] = [{"timeout": {"seconds": 1}}, "logging"]\nbus = open_bus(CONFIG)\n'
    )
    name = module(source)
    (warning,) = run.json("explain", "--app", f"{name}:bus")["chain_warnings"]
    assert warning.startswith("'timeout' must not be outside of 'logging': ")
    output = run("explain", "--app", f"{name}:bus").output
    assert f"warnings about the order of middleware:\n  - {warning}\n" in output
    assert "warnings" not in run("explain", "--app", f"{module(APP)}:bus").output


def test_a_subscription_is_told_with_its_options(run: Run, module: Module) -> None:
    """The output shows group, handler, concurrency, timeout and ``give_up_on`` of a subscription."""
    name = module(APP)
    found = run.json("explain", "shop.order.placed", "--app", f"{name}:bus")
    packing, audit = found["subscriptions"]
    assert packing["group"] == "shop.packing"
    assert packing["handler"] == f"{name}.pack"
    assert (packing["concurrency"], packing["timeout"]) == (2, 3.0)
    assert packing["give_up_on"] == ["KeyError"]
    assert (audit["subscription"], audit["mode"]) == ("audit", "broadcast")
    [topic] = found["topics"]
    assert topic["origin"] == "declared in code"
    assert topic["subscriptions"] == ["packing", "audit"]


def test_retry_policies_are_effective_values_with_their_source(run: Run, module: Module) -> None:
    """Each topic's retry policy has its merged values, and the configuration path of each value."""
    found = run.json("explain", "shop.#", "--app", f"{module(APP)}:bus")
    by_name = {item["subscription"]: item["retry"] for item in found["subscriptions"]}
    [packing] = by_name["packing"]
    assert packing["retry"]["options"]["attempts"] == 9
    assert packing["retry"]["options"]["delay"] == "1ms"
    assert packing["retry"]["sources"]["attempts"] == "$.bus.topics['shop.order.*'].retry.attempts"
    assert packing["retry"]["sources"]["delay"] == "$.bus.retry_delay"
    assert packing["retry"]["sources"]["jitter"] == "default"
    [cart] = by_name["cart"]
    assert cart["retry"]["options"]["attempts"] == 5
    assert cart["retry"]["sources"]["attempts"] == "$.bus.retry_attempts"
    [sending] = by_name["sending"]
    assert sending["retry"]["name"] == "FixedRetry"
    assert sending["retry"]["options"] == {"attempts": 2, "delay": "500ms"}
    assert sending["retry"]["origin"] == "the subscribing code"
    assert [entry["topics"] for entry in by_name["audit"]] == [
        ["shop.cart.added"],
        ["shop.order.paid", "shop.order.placed"],
    ]


def test_people_read_it_as_sentences(run: Run, module: Module) -> None:
    """The plain output shows each subscription's topics, middleware, mode and retry policy."""
    name = module(APP)
    output = run("explain", "shop.order.*", "--app", f"{name}:bus").output
    assert f"calls       logging -> timeout -> {name}.pack" in output
    assert (
        "mode        group shop.packing, at most 2 at once, each attempt within 3s, never retries KeyError"
        in output
    )
    assert "mode        group shop.sending, ordered by key" in output
    assert (
        "set by $.bus.retry_delay, $.bus.topics['shop.order.*'].retry.attempts, from promenade-bus " in output
    )
    assert "retry       FixedRetry (attempts=2, delay=500ms), from the subscribing code" in output
    assert "goes to     packing, audit" in output
    assert "cart" not in output


DEPRECATED = """
import warnings
from typing import Annotated
warnings.simplefilter("ignore", DeprecationWarning)
bus = open_bus(CONFIG)

@event
class OrderMoved(Event):
    place: Annotated[str, Deprecated("use address")] = ""
    address: str = ""

OLD = Topic("shop.order.old", OrderMoved, deprecated="use shop.order.placed")

@bus.subscribe(OLD, name="moving")
async def move(event): ...

@bus.subscribe(ORDER_PLACED, name="packing")
async def pack(event): ...
"""


def test_deprecated_topics_and_fields_are_told(run: Run, module: Module) -> None:
    """A deprecated topic, and each deprecated field of its events, has a line with the advice."""
    name = module(DEPRECATED)
    old, placed = run.json("explain", "shop.#", "--app", f"{name}:bus")["topics"]
    assert (old["deprecated"], old["deprecated_fields"]) == (
        "use shop.order.placed",
        {"place": "use address"},
    )
    assert (placed["deprecated"], placed["deprecated_fields"]) == (None, {})
    output = run("explain", "shop.#", "--app", f"{name}:bus").output
    advice = "  deprecated  use shop.order.placed\n  field       place is deprecated: use address\n"
    assert f"{advice}  goes to     moving\n" in output
    assert output.count("deprecated  ") == 1


def test_without_an_application_configuration_and_catalogues_are_explained(
    run: Run, config: Callable[[str], str]
) -> None:
    """With --config there are no subscriptions, and the output explains how to pass an application."""
    path = config("bus: {adapter: memory, retry_attempts: 4}")
    found = run.json("explain", "identity.user.registered", "--config", path)
    assert found["subscriptions"] == []
    assert found["topics"][0]["origin"].startswith("promenade-context-identity ")
    assert found["topics"][0]["retry"]["options"]["attempts"] == 4
    output = run("explain", "identity.user.registered", "--config", path).output
    assert "subscriptions are made by an application: pass --app MODULE:ATTR to see them" in output


@pytest.mark.parametrize(
    ("topic", "status", "message"),
    [("shop.order.paced", 2, "did you mean 'shop.order.placed'"), ("nowhere.#", 1, "no known topic matches")],
)
def test_an_unknown_topic_is_an_error(
    run: Run, module: Module, topic: str, status: int, message: str
) -> None:
    """An unknown topic is an error that suggests the nearest name."""
    result = run("explain", topic, "--app", f"{module(APP)}:bus")
    assert result.exit_code == status
    assert message in result.output


def test_nothing_is_started(run: Run, module: Module) -> None:
    """Explaining an application runs no handler and leaves its bus unstarted."""
    source = APP + "\nimport builtins\nbuiltins.explained_bus = bus\n"
    run("explain", "--app", f"{module(source)}:bus")
    import builtins

    bus: Any = builtins.__dict__.pop("explained_bus")
    assert bus.status == "not started"

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import prometheus_client
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bus_core import BaseEvent, Bus, ConfigError, FixedRetry, Topic, open_bus
from bus_core.plugins import discover
from promenade_bus_prometheus.__main__ import main
from promenade_bus_prometheus.metrics import METRICS
from promenade_bus_prometheus.tally import OTHER, Slots, Tally
from redis_support.fixtures import StartServer, start_server

__all__ = ["start_server"]

WITHIN = 10.0
PLACED = Topic("sales.order.placed", BaseEvent)
PAID = Topic("sales.order.paid", BaseEvent)

Labels = frozenset[tuple[str, str]]


def an_event() -> BaseEvent:
    return BaseEvent("order.placed", uuid4())


def an_old_event() -> BaseEvent:
    return BaseEvent("order.placed", uuid4(), occurred_at=datetime.now(UTC) - timedelta(hours=2))


def make_bus(service: str = "shop", options: Mapping[str, Any] | None = None, **bus: Any) -> Bus:
    chosen: Any = {"prometheus": options} if options else "prometheus"
    settings = {"adapter": "memory", "service": service, "strict_topics": False, "observers": [chosen], **bus}
    return open_bus({"bus": settings})


def families(text: str | None = None) -> dict[str, Family]:
    """The samples of the default registry by name, as the parser of Prometheus reads it."""
    text = prometheus_client.generate_latest().decode() if text is None else text
    return {found.name: found for found in text_string_to_metric_families(text)}


def values(name: str, text: str | None = None) -> dict[Labels, float]:
    """The samples of one name, such as ``handled_total``, by their labels but ``service``."""
    full = f"promenade_bus_{name}"
    return {
        frozenset((key, value) for key, value in sample.labels.items() if key != "service"): sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == full
    }


def value(name: str, text: str | None = None, /, **labels: str) -> float:
    """The one sample with these labels."""
    return values(name, text)[frozenset(labels.items())]


async def until(condition: Any) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def nothing_is_left_registered() -> Iterator[None]:
    """After each test the default registry has no figure of a bus any more."""
    yield
    assert not [name for name in families() if name.startswith("promenade_bus_")]


# --- what is counted --------------------------------------------------------------------------------------


async def test_what_happened_is_counted() -> None:
    """Published, handled, failed, retried, dead-lettered and unrouted events are counted, by name."""
    async with make_bus() as bus:
        attempts = 0

        @bus.subscribe(PLACED, name="stock", retry=FixedRetry(attempts=3, delay=0.001))
        async def stock(event: BaseEvent) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                raise ValueError

        @bus.subscribe(PLACED, name="invoice", retry=FixedRetry(attempts=2, delay=0.001))
        async def invoice(event: BaseEvent) -> None:
            raise LookupError

        @bus.subscribe("sales.#", name="audit", where=lambda event: False)
        async def audit(event: BaseEvent) -> None:
            raise AssertionError

        for _ in range(2):
            await bus.publish(PLACED, an_event())
            await bus.drain()
        await bus.publish("stock.item.moved", an_event())
        text = prometheus_client.generate_latest().decode()

    at = {"subscription": "stock", "topic": "sales.order.placed"}
    assert value("published_total", text, topic="sales.order.placed") == 2
    assert value("handled_total", text, **at) == 2
    assert value("failed_attempts_total", text, **at) == 1
    assert value("retried_total", text, **at) == 1
    assert value("dead_lettered_total", text, **at) == 0
    assert value("dead_lettered_total", text, subscription="invoice", topic="sales.order.placed") == 2
    assert value("skipped_total", text, subscription="audit", topic="sales.#") == 2
    assert value("unrouted_total", text) == 1
    assert value("lost_total", text) == 0
    assert value("handler_seconds_count", text, **at) == 3
    buckets = values("handler_seconds_bucket", text)
    assert buckets[frozenset({**at, "le": "+Inf"}.items())] == 3
    assert buckets[frozenset({**at, "le": "60.0"}.items())] == 3


async def test_events_that_a_middleware_skips_are_counted() -> None:
    """The counts of a middleware have its name, the subscription and what it did."""
    async with make_bus(middleware=[{"expiry": {"limit": "1h"}}]) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        for event in (an_event(), an_old_event(), an_old_event()):
            await bus.publish(PLACED, event)
        await bus.drain()
        labels = {"middleware": "expiry", "subject": "stock", "outcome": "expired"}
        assert value("middleware_events_total", **labels) == 2


async def test_a_loss_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is lost shows in the one counter that has to stay at 0."""
    async with make_bus(retry_attempts=1) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None:
            raise ValueError

        def bury(*_arguments: Any) -> None:
            raise OSError

        monkeypatch.setattr(bus.adapter, "bury", bury)
        await bus.publish(PLACED, an_event())
        await until(lambda: value("lost_total") == 1)


async def test_what_is_held_now_is_shown() -> None:
    """Handlers in flight, queued events, retries to come, a paused subscription and the buffer are gauges."""
    gate = asyncio.Event()
    async with make_bus(worker_pool_size=1, buffer_size=50) as bus:

        @bus.subscribe(PLACED, name="stock", retry=FixedRetry(attempts=2, delay=60))
        async def stock(event: BaseEvent) -> None:
            await gate.wait()
            raise ValueError

        paused = bus.subscribe(PAID, stock, name="paused")
        paused.pause()
        for _ in range(3):
            await bus.publish(PLACED, an_event())
        await until(lambda: bus.state().running_handlers == 1)
        at = {"subscription": "stock", "topic": "sales.order.placed"}
        assert (value("in_flight", **at), value("queued", **at), value("waiting_retries", **at)) == (1, 2, 0)
        assert value("lag", **at) == 3
        assert value("paused", **at) == 0
        assert value("paused", subscription="paused", topic="sales.order.paid") == 1
        assert (value("workers"), value("workers_busy")) == (1, 1)
        assert (value("buffer_events"), value("buffer_size")) == (3, 50)
        gate.set()
        await until(lambda: value("waiting_retries", **at) == 3)
        assert (value("in_flight", **at), value("lag", **at)) == (0, 3)
        await bus.close(0)


async def test_durations_fall_into_buckets() -> None:
    """Each call of a handler is in the bucket of its duration, and the sum is that of all."""
    async with make_bus(options={"buckets": [0.02, 10]}) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None:
            if event.data["slow"]:
                await asyncio.sleep(0.05)

        for slow in (True, False, False):
            await bus.publish(PLACED, BaseEvent("order.placed", uuid4(), data={"slow": slow}))
        await bus.drain()
        at = {"subscription": "stock", "topic": "sales.order.placed"}
        buckets = values("handler_seconds_bucket")
        assert [buckets[frozenset({**at, "le": le}.items())] for le in ("0.02", "10.0", "+Inf")] == [2, 3, 3]
        assert value("handler_seconds_sum", **at) >= 0.05


async def test_durations_may_be_left_out() -> None:
    """Without durations a plain handler is not wrapped, and there is no series of the histogram."""
    async with make_bus(options={"durations": False}) as bus:
        assert bus.parts.observers["prometheus"].timing is None

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.publish(PLACED, an_event())
        await bus.drain()
        assert values("handler_seconds_count") == {}
        assert value("handled_total", subscription="stock", topic="sales.order.placed") == 1


async def test_the_figures_of_buses_of_a_process_are_together() -> None:
    """Two services have series of their own, two buses of one service are added, and a closed one goes."""

    async def handle(event: BaseEvent) -> None: ...

    def handled() -> dict[str, float]:
        found = families()["promenade_bus_handled"].samples
        return {sample.labels["service"]: sample.value for sample in found}

    async with make_bus("shop") as shop, make_bus("bank") as bank:
        another = make_bus("shop")
        await another.start()
        for bus in (shop, bank, another):
            bus.subscribe(PLACED, handle, name="stock")
            await bus.publish(PLACED, an_event())
            await bus.drain()
        assert handled() == {"shop": 2, "bank": 1}
        [bucket] = [
            sample
            for sample in families()["promenade_bus_handler_seconds"].samples
            if sample.name.endswith("_count") and sample.labels["service"] == "shop"
        ]
        assert bucket.value == 2
        await another.close()
        assert handled() == {"shop": 1, "bank": 1}


# --- bounded, and never going back ------------------------------------------------------------------------


async def test_names_beyond_the_bound_are_counted_together() -> None:
    """However many topics and subscriptions there are, the number of series is bounded, and all count."""
    async with make_bus(options={"max_topics": 2, "max_subscriptions": 3}) as bus:
        for number in range(6):

            @bus.subscribe(f"sales.order.kind{number}", name=f"stock-{number}")
            async def stock(event: BaseEvent) -> None: ...

            await bus.publish(f"sales.order.kind{number}", an_event())
        await bus.drain()
        published = values("published_total")
        assert len(published) == 3
        assert published[frozenset({("topic", OTHER)})] == 4
        handled = values("handled_total")
        assert len(handled) == len(values("in_flight")) == len(values("handler_seconds_count")) == 4
        other = {"subscription": OTHER, "topic": OTHER}
        assert (value("handled_total", **other), value("handler_seconds_count", **other)) == (3, 3)
        assert sum(handled.values()) == 6


async def test_what_has_left_is_still_counted() -> None:
    """A counter does not go back when its subscription leaves and another one of the name comes."""
    at = {"subscription": "stock", "topic": "sales.order.placed"}

    async def handle(event: BaseEvent) -> None: ...

    async with make_bus() as bus:
        for expected in (1, 2):
            subscription = bus.subscribe(PLACED, handle, name="stock")
            await bus.publish(PLACED, an_event())
            await bus.drain()
            assert value("handled_total", **at) == expected
            await subscription.unsubscribe()
            await until(lambda: not values("in_flight"))
            assert value("handled_total", **at) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # how busy the machine is
@given(
    strategies.lists(
        strategies.one_of(
            strategies.tuples(strategies.just("count"), strategies.integers(0, 5), strategies.integers(1, 9)),
            strategies.tuples(strategies.just("leave"), strategies.integers(0, 5), strategies.just(0)),
            strategies.tuples(strategies.just("look"), strategies.just(0), strategies.just(0)),
        ),
        max_size=40,
    )
)
def test_no_total_ever_goes_back(steps: list[tuple[str, int, int]]) -> None:
    """Totals only grow and lose nothing, whatever subscribes, counts, leaves and returns."""
    tally: Tally[str] = Tally(Slots(3, OTHER))
    live: dict[str, int] = {}
    seen: dict[str, int] = {}
    last: dict[str, int] = {}
    expected = 0
    for action, number, amount in steps:
        name = f"n{number}"
        if action == "count":
            live[name] = live.get(name, 0) + amount
        elif action == "leave":
            live.pop(name, None)
        else:
            for each, count in live.items():  # only a lower count shows that a name left and came again
                known = seen.get(each, 0)
                expected += count - known if count >= known else count
            seen = dict(live)
            updated = tally.update((each, (count,)) for each, count in live.items())
            totals = {each: count for each, (count,) in updated.items()}
            assert len(totals) <= 4
            assert all(totals[each] >= count for each, count in last.items())
            last = totals
    final = tally.update((each, (count,)) for each, count in live.items())
    assert sum(count for (count,) in final.values()) >= expected


# --- from other threads -----------------------------------------------------------------------------------


def in_a_thread(call: Any) -> Any:
    answers: list[Any] = []
    thread = Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    return thread, answers


async def test_a_scrape_from_another_thread_asks_the_loop() -> None:
    """The thread that serves figures gets fresh ones from the event loop of the bus."""
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.publish(PLACED, an_event())
        await bus.drain()
        text: str = await asyncio.to_thread(lambda: prometheus_client.generate_latest().decode())
        assert value("handled_total", text, subscription="stock", topic="sales.order.placed") == 1
        assert value("snapshot_age_seconds", text) == 0


async def test_while_the_loop_is_blocked_the_last_figures_are_shown_with_their_age() -> None:
    """A handler that blocks the event loop does not make the figures mute: they say how old they are."""
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.publish(PLACED, an_event())
        await bus.drain()
        prometheus_client.generate_latest()
        began = time.monotonic()
        thread, answers = in_a_thread(lambda: prometheus_client.generate_latest().decode())
        while thread.is_alive() and time.monotonic() < began + WITHIN:
            time.sleep(0.01)  # noqa: ASYNC251 - the loop is blocked on purpose
        (text,) = answers
        assert time.monotonic() - began < 20
    assert value("handled_total", text, subscription="stock", topic="sales.order.placed") == 1
    assert 0.5 <= value("snapshot_age_seconds", text) < 5


# --- lag on a server --------------------------------------------------------------------------------------


async def test_lag_is_that_of_all_instances(start_server: StartServer) -> None:
    """On Redis the lag counts what other instances hold; while the server is down there is no such series."""
    server = start_server()
    redis = {"adapter": "redis", "redis": {"addr": server.address}, "shutdown_timeout": "1s"}
    at = {"subscription": "stock", "topic": "sales.order.placed"}
    gate = asyncio.Event()

    async def handle(event: BaseEvent) -> None:
        await gate.wait()

    options = {"lag_interval": "20ms"}
    other = open_bus({"bus": {"service": "shop", "strict_topics": False, **redis}})
    async with make_bus("shop", options, **redis) as bus, other:
        for each in (bus, other):
            await each.subscribe(PLACED, handle, name="stock").ready()
        for _ in range(5):
            await bus.publish(PLACED, an_event())
        await until(lambda: values("lag").get(frozenset(at.items())) == 5)
        gate.set()
        await until(lambda: values("lag").get(frozenset(at.items())) == 0)
        server.stop()
        await until(lambda: not values("lag"))
        assert value("handled_total", **at) <= 5


async def test_ages_are_those_of_the_oldest(tmp_path: Path) -> None:
    """The ages of the oldest event that nobody has received, and of the oldest waiting retry, are told."""
    sqlite = {"adapter": "sqlite", "sqlite": {"path": str(tmp_path / "events.db")}}
    at = frozenset({("subscription", "stock"), ("topic", "sales.order.placed")})

    async def fail(event: BaseEvent) -> None:
        raise ValueError("never")

    async with make_bus("shop", {"lag_interval": "20ms"}, **sqlite) as bus:
        stock = bus.subscribe(PLACED, fail, name="stock")
        await stock.ready()
        await stock.unsubscribe()
        await until(lambda: values("oldest_unread_seconds").get(at) == 0)
        assert value("oldest_retry_seconds") == 0
        await bus.publish(PLACED, an_event())
        await until(lambda: values("oldest_unread_seconds").get(at, 0) > 0)
        mail = bus.subscribe(PAID, fail, name="mail", retry=FixedRetry(attempts=2, delay=5))
        await mail.ready()
        await bus.publish(PAID, an_event())
        await until(lambda: value("oldest_retry_seconds") > 0)
        await bus.close(0)


# --- several processes ------------------------------------------------------------------------------------

PROCESS = """
import asyncio, sys
from uuid import uuid4
from bus_core import BaseEvent, open_bus

async def main() -> None:
    config = {"bus": {
        "adapter": "memory", "service": "shop", "strict_topics": False,
        "observers": [{"prometheus": {"sync_interval": "10ms"}}],
    }}
    bus = open_bus(config)
    async with bus:
        @bus.subscribe("sales.order.placed", name="stock")
        async def stock(event: BaseEvent) -> None: ...
        for _ in range(int(sys.argv[1])):
            await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await bus.drain()
    content_type, body = bus.parts.observers["prometheus"].scrape("")
    print(body.decode())

asyncio.run(main())
"""


def test_the_figures_of_several_processes_are_together(tmp_path: Path) -> None:
    """In multi-process mode each process serves the figures of all: counters and histograms are added."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    texts = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PROCESS, str(count)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for count in (3, 4)
    ]
    at = {"subscription": "stock", "topic": "sales.order.placed"}
    assert [value("handled_total", text, **at) for text in texts] == [3, 7]
    assert value("published_total", texts[1], topic="sales.order.placed") == 7
    assert value("handler_seconds_count", texts[1], **at) == 7
    assert {f"promenade_bus_{name}" for name in ("handled", "lag", "lost")} <= {*families(texts[1])}


# --- what it brings, and how it is chosen -----------------------------------------------------------------


async def exported() -> set[str]:
    """Every name that a scrape gives, while something is there for each."""
    async with make_bus(middleware=[{"expiry": {"limit": "1h"}}]) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.publish(PLACED, an_event())
        await bus.publish(PLACED, an_old_event())
        await bus.drain()
        found = {
            sample.name
            for family in families().values()
            for sample in family.samples
            if sample.name.startswith("promenade_bus_")
        }
    return found


def names_in(text: str) -> set[str]:
    return {name for name in re.findall(r"promenade_bus_\w+", text) if name != "promenade_bus_prometheus"}


async def test_the_board_and_the_rules_use_names_that_exist() -> None:
    """Every metric that the board or a rule asks for is exported, and the board shows every metric."""
    names = await exported()
    package = files("promenade_bus_prometheus")
    board = json.loads(package.joinpath("board.json").read_text("utf-8"))
    asked = {
        name for panel in board["panels"] for target in panel["targets"] for name in names_in(target["expr"])
    }
    asked_by_variables = names_in(json.dumps(board["templating"]))
    rules = yaml.safe_load(package.joinpath("rules.yaml").read_text("utf-8"))
    asked_by_rules = {
        name for group in rules["groups"] for rule in group["rules"] for name in names_in(rule["expr"])
    }
    assert asked - names == set()
    assert asked_by_variables - names == set()
    assert asked_by_rules - names == set()
    shown = {re.sub("_(total|bucket|sum|count)$", "", name) for name in asked}
    assert {metric.name for metric in METRICS} - shown == set()


async def test_every_metric_is_exported_and_documented() -> None:
    """A scrape gives each metric of the table, and the page of the plugin names each."""
    names = {re.sub("_(total|bucket|sum|count)$", "", name) for name in await exported()}
    assert names == {metric.name for metric in METRICS}
    page = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    documented = {re.sub("_total$", "", name) for name in re.findall(r"`(\w+)`", page)}
    assert {metric.name.removeprefix("promenade_bus_") for metric in METRICS} - documented == set()


async def test_a_scrape_answers_in_the_format_that_is_asked_for() -> None:
    """The observer answers in OpenMetrics where that is accepted, and in the text format otherwise."""
    async with make_bus() as bus:
        scrape = bus.parts.observers["prometheus"].scrape
        assert scrape is not None
        content_type, body = scrape("")
        assert content_type.startswith("text/plain")
        assert "promenade_bus_lost" in families(body.decode())
        content_type, body = scrape("application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        parsed = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        assert "promenade_bus_lost" in {family.name for family in parsed}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"buckets": [1, 0.5]}, "buckets must be seconds above 0 in ascending order"),
        ({"buckets": []}, "buckets must be seconds above 0 in ascending order"),
        ({"max_topics": 0}, "max_topics must be above 0"),
        ({"lag_intervall": "1s"}, "unknown key 'lag_intervall', did you mean 'lag_interval'?"),
        ({"sync_interval": "0s"}, "sync_interval must be above 0"),
    ],
)
def test_faulty_options_are_told_with_their_path(options: dict[str, Any], fault: str) -> None:
    """Options are read strictly."""
    with pytest.raises(ConfigError, match=re.escape(fault)) as caught:
        make_bus(options=options)
    assert "$.bus.observers[0].prometheus" in str(caught.value)


def test_it_is_found() -> None:
    """The installed distribution offers one observer."""
    assert discover().observers.select("prometheus").origin.startswith("promenade-bus-prometheus ")


def test_board_and_rules_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The package prints what it brings; anything else is an error with the usage."""
    assert main(["board"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Promenade Bus"
    assert main(["rules"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["groups"]
    assert main(["other"]) == 2
    assert "usage: python -m promenade_bus_prometheus board|rules" in capsys.readouterr().err

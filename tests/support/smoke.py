"""A first use of every distribution, in an environment without the tools of the tests.

It is a script. The arguments are an empty directory, and the configurations of further adapters as JSON. It
imports every module, runs a bus on each adapter and with each serializer, and uses the libraries that plugins
wrap.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from uuid import uuid4

from bus_core import Event, Topic, event, open_bus


@event
class Placed(Event):
    """An event with a few types of fields."""

    text: str
    total: int | None = None
    tags: tuple[str, ...] = ()


PLACED = Topic("smoke.order.placed", Placed)
MIDDLEWARE = ["logging", "correlation", {"timeout": {"seconds": 60}}]


def import_everything() -> None:
    """Imports each module of each first-party package that is installed."""
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=["promenade_bus_django", "promenade_bus_django.outbox"],
        PROMENADE_BUS={"bus": {"adapter": "memory"}},
    )
    django.setup()
    names = {package.name for package in pkgutil.iter_modules() if package.name.startswith("promenade_")}
    wanted = {found.name for found in distributions() if found.name.startswith("promenade-")}
    assert len(names) == len(wanted) - 2, (names, wanted)  # bus_core and crm have other names
    for name in ("bus_core", "crm", *sorted(names)):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


async def travel(adapter: Mapping[str, Any], serializer: str) -> None:
    """Publishes an event, which fails once and is then handled, and asks for the health."""
    config = {
        "retry_attempts": 2,
        "retry_delay": "1ms",
        "middleware": MIDDLEWARE,
        "serializer": serializer,
        "observers": ["prometheus", "opentelemetry", "sentry"],
        "health": {"probes": ["engine", "event-loop", "dead-letters"]},
        **adapter,
    }
    arrived, failures = asyncio.Event(), [ValueError("planted")]
    received: list[Placed] = []
    sent = Placed(aggregate_id=uuid4(), text="é", total=3, tags=("a",))
    async with open_bus({"app": {"name": "smoke"}, "bus": config}) as bus:

        @bus.subscribe(PLACED, name=f"smoke-{serializer}")
        async def receive(placed: Placed) -> None:
            if failures:
                raise failures.pop()
            received.append(placed)
            arrived.set()

        await bus.publish(PLACED, sent)
        await asyncio.wait_for(arrived.wait(), 60)
        report = await bus.health()
    assert received == [sent]
    assert {"engine", "event-loop", "dead-letters"} <= {
        *report.checks
    }  # a busy machine decides on their status


async def serve() -> None:
    """Serves the probes with uvicorn."""
    from promenade_bus_http import serve

    bus = open_bus({"bus": {"adapter": "memory", "observers": ["prometheus"]}})
    with serve(bus, port=0) as address:
        async with bus:
            answer = await asyncio.to_thread(urllib.request.urlopen, f"{address}/readyz", timeout=30)
    assert answer.status == 200


async def mount() -> None:
    """Opens a bus in the lifespan of a Starlette application."""
    from starlette.applications import Starlette

    from promenade_bus_asgi import bus_lifespan, bus_of

    app = Starlette(lifespan=bus_lifespan(lambda: open_bus({"bus": {"adapter": "memory"}})))
    async with app.router.lifespan_context(app) as state:
        await bus_of({"state": state}).drain()


async def publish_from_a_transaction(directory: Path) -> None:
    """Writes an event with SQLAlchemy and relays it."""
    from sqlalchemy import MetaData, create_engine
    from sqlalchemy.orm import sessionmaker

    from promenade_bus_outbox import Outbox, outbox_tables

    metadata = MetaData()
    tables = outbox_tables(metadata)
    engine = create_engine(f"sqlite:///{directory / 'outbox.db'}")
    metadata.create_all(engine)
    sessions, arrived = sessionmaker(engine), asyncio.Event()
    bus = open_bus({"bus": {"adapter": "memory"}})

    @bus.subscribe(PLACED, name="outbox")
    async def receive(placed: Placed) -> None:
        arrived.set()

    outbox = Outbox(bus, sessions, tables)
    async with bus, outbox:
        with sessions.begin() as session:
            outbox.publish_sync(session, PLACED, Placed(aggregate_id=uuid4(), text="x"))
        await asyncio.wait_for(arrived.wait(), 60)
    engine.dispose()


TEST = """
from uuid import uuid4
from bus_core import Event, Topic, event

@event
class Sold(Event):
    "Sold."

SOLD = Topic("smoke.thing.sold", Sold)

def test_it(sync_bus, sync_recorder):
    sync_bus.subscribe(SOLD, lambda event: None, name="a")
    sync_bus.publish(SOLD, Sold(aggregate_id=uuid4()))
    sync_bus.drain()
    sync_recorder.expect(SOLD)
"""


def run_programs(directory: Path) -> None:
    """Runs the command line, the templates and the fixtures, each in a process of its own."""
    (directory / "app.yaml").write_text("bus: {adapter: memory}\n", encoding="utf-8")
    (directory / "test_it.py").write_text(TEST, encoding="utf-8")
    command = [sys.executable, "-m", "bus_core"]
    for arguments in (
        [*command, "config", "check", "app.yaml"],
        [*command, "plugins", "doctor"],
        [*command, "topics", "--verbose"],
        [*command, "explain", "--config", "app.yaml"],
        [*command, "contracts", "--help"],
        [*command, "new", "serializer", "cbor", "--author", "Ada"],
        [sys.executable, "-m", "pytest", "-q", "test_it.py"],
    ):
        done = subprocess.run(
            arguments, cwd=directory, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"


def main() -> None:
    """Does all of it."""
    directory, adapters = Path(sys.argv[1]), json.loads(sys.argv[2])
    import_everything()
    for serializer in ("json", "msgspec", "avro"):
        asyncio.run(travel({"adapter": "memory", "memory": {"serialize": True}}, serializer))
    asyncio.run(travel({"adapter": "sqlite", "sqlite": {"path": str(directory / "bus.db")}}, "json"))
    for adapter in adapters:
        asyncio.run(travel(adapter, "json"))
    asyncio.run(serve())
    asyncio.run(mount())
    asyncio.run(publish_from_a_transaction(directory))
    run_programs(directory)


if __name__ == "__main__":
    main()

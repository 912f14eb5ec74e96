"""``promenade-bus tail``: reads along, and shows nothing that is personal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Run = Any
Module = Callable[[str], str]

APP = """
import asyncio
from support.remote import Server, make_remote_bus

SERVER = Server()
handled = []

async def publish():
    while not SERVER.consumers:
        await asyncio.sleep(0.001)
    async with make_remote_bus(SERVER, strict_topics=False) as bus:
        for number in (1, 2):
            event = OrderPlaced(aggregate_id=UUID(int=1), number=number, note="planted7secret")
            await bus.publish(ORDER_PLACED, event, headers={"trace": "abc"})

def opened():
    publish.task = asyncio.get_running_loop().create_task(publish())
    return make_remote_bus(SERVER)

def make():
    bus = opened()
    bus.subscribe(ORDER_PLACED, handled.append, name="orders")
    return bus
"""


def test_events_are_followed(run: Run, module: Module) -> None:
    """Each event is a line with its data, personal values hidden; nobody handles it."""
    name = module(APP)
    result = run("tail", "shop.#", "--limit", "2", "--app", f"{name}:make")
    assert result.exit_code == 0, result.output
    assert result.stderr == "following shop.# on 'remote'; Ctrl-C ends it\n"
    first, second = (line.split("  ") for line in result.stdout.splitlines())
    assert (first[1], first[3]) == ("shop.order.placed", '{"number": 1, "note": "<personal>"}')
    assert second[3] == '{"number": 2, "note": "<personal>"}'
    assert __import__(name).handled == []


def test_each_event_is_a_document(run: Run, module: Module) -> None:
    """With --json each line is a document."""
    result = run("tail", "shop.order.placed", "--limit", "2", "--app", f"{module(APP)}:make", "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["event"]["data"] == {"number": 1, "note": "<personal>"}
    assert (second["topic"], second["headers"]) == ("shop.order.placed", {"trace": "abc"})
    assert "planted7secret" not in result.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_nobody_knows_is_withheld(run: Run, module: Module, options: list[str]) -> None:
    """Without the class nothing of the data is shown, unless somebody asks for it."""
    name = module(APP)
    command = ["tail", "shop.#", "--limit", "1", "--app", f"{name}:opened", *options]
    result = run(*command)
    assert "the class of the events of 'shop.order.placed' is not installed here" in result.stdout
    assert "planted7secret" not in result.stdout
    assert "planted7secret" in run(*command[:4], "--app", f"{module(APP)}:opened", "--show-data").stdout


def test_where_it_cannot_read_along(run: Run, config: Callable[[str], str]) -> None:
    """An adapter inside of a process has nothing to read along, and a bad pattern is told: status 2."""
    memory = config("bus: {adapter: memory}")
    error = run.json("tail", "shop.#", "--config", memory, status=2)["error"]
    assert error["message"].startswith("tail cannot read along: the adapter 'memory' keeps its events inside")
    assert run("tail", "a.*b", "--config", memory).exit_code == 2

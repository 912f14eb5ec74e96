"""``promenade-bus stats`` and ``promenade-bus replay``, on events in a file."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bus_core import AdapterError
from bus_core.abc import GroupFigures, Replayed
from promenade_bus_cli import replay, stats
from promenade_bus_cli.signals import Signals
from promenade_bus_sqlite.administration import SqliteAdministration

Run = Any
Module = Callable[[str], str]
Config = Callable[[str], str]

APP = """
handled = []

async def pack(order, delivery):
    handled.append((order.number, delivery.redriven))

def make():
    bus = open_bus({
        "app": {"name": "shop"},
        "bus": {"adapter": "sqlite", "sqlite": {"path": "events.db"}, "retry_attempts": 1},
    })
    bus.subscribe(ORDER_PLACED, pack, name="packing")
    return bus

async def fill(count):
    async with make() as bus:
        for number in range(count):
            await bus.publish(ORDER_PLACED, OrderPlaced(aggregate_id=uuid7(), number=number))
        await bus.drain()

async def work():
    handled.clear()
    async with make() as bus:
        await bus.drain()
    return sorted(handled)
"""


class Shop:
    """An application that has handled ten orders, and a command line for it."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self.module = sys.modules.get(name) or __import__(name)
        self._run = run
        asyncio.run(self.module.fill(10))

    def __call__(self, *arguments: str, **options: Any) -> Any:
        return self._run(*arguments, "--app", f"{self.name}:make", **options)

    def json(self, *arguments: str, status: int = 0) -> Any:
        return self._run.json(*arguments, "--app", f"{self.name}:make", status=status)

    def work(self) -> list[tuple[int, bool]]:
        """The events that the handler gets now, and whether it was told of a replay."""
        return asyncio.run(self.module.work())  # type: ignore[no-any-return]


@pytest.fixture
def shop(run: Run, module: Module, tmp_path: Path) -> Shop:
    sys.path.insert(0, str(tmp_path))
    return Shop(module(APP), run)


def test_a_replay_tells_first_and_asks(shop: Shop) -> None:
    """A dry run and a refusal replay nothing; a replay goes to the subscription, which can see it."""
    assert (
        shop("replay", "packing", "--all", "--dry-run").stdout == "would replay 10 events; nothing was done\n"
    )
    refused = shop("replay", "packing", "--all", input="n\n")
    assert (refused.exit_code, "hand 10 events to 'packing' again?" in refused.stderr) == (1, True)
    assert shop.work() == []
    done = shop("replay", "packing", "--from", "1h", "--topic", "shop.#", input="y\n")
    assert done.stdout == "10 events handed to 'packing' again\n"
    assert shop.work() == [(number, True) for number in range(10)]
    assert shop.work() == []


def test_a_replay_that_was_cut_short_goes_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed command continues after a failure: each event is handed out once."""
    monkeypatch.setattr(replay, "_AT_ONCE", 3)
    real, calls = SqliteAdministration.replay, 0

    async def failing(self: SqliteAdministration, *arguments: Any, **options: Any) -> Replayed:
        nonlocal calls
        calls += 1
        told = await real(self, *arguments, **options)
        if calls == 3:  # it was stored, and nobody knows it
            raise AdapterError("the disk is gone")
        return told

    monkeypatch.setattr(SqliteAdministration, "replay", failing)
    cut = shop("replay", "packing", "--all", "--yes")
    assert cut.exit_code == 4
    assert "cut short: 3 events handed to 'packing' again" in cut.stderr
    [command] = re.findall(r"go on with: promenade-bus (.*)", cut.stderr)
    again = shop._run(*shlex.split(command), "--yes", "--json")
    assert again.exit_code == 0, again.output
    assert '"replayed": 10' in again.stdout
    assert shop.work() == [(number, True) for number in range(10)]


def test_a_replay_needs_a_selection_and_a_group(shop: Shop, config: Config, run: Run) -> None:
    """Without a selection, for an unknown subscription, and without a storage the error says what to do."""
    assert "all with --all" in shop.json("replay", "packing", status=2)["error"]["message"]
    unknown = shop.json("replay", "pakcing", "--all", status=1)["error"]["message"]
    assert "'shop.pakcing'" in unknown
    assert "did you mean 'shop.packing'?" in unknown
    memory = run.json("replay", "x", "--all", "--config", config("bus: {adapter: memory}"), status=2)
    assert "needs an adapter with the feature 'admin'" in memory["error"]["message"]


def test_stats_once(shop: Shop) -> None:
    """In a pipe the table is printed once, and as JSON it has every figure."""
    [row] = shop.json("stats", "--interval", "50ms")["subscriptions"]
    assert row == {
        "group": "shop.packing",
        "subscription": "packing",
        "topic": "shop.order.placed",
        "instances": 0,
        "backlog": 0,
        "lag": 0,
        "in_flight": 0,
        "retries": 0,
        "dead": 0,
        "oldest_s": None,
        "in_per_s": 0.0,
        "out_per_s": 0.0,
    }
    lines = shop("stats", "--interval", "50ms").stdout.splitlines()
    assert lines[0].split() == [
        "SUBSCRIPTION",
        "TOPIC",
        "INSTANCES",
        "IN/S",
        "OUT/S",
        "IN",
        "FLIGHT",
        "RETRIES",
        "DEAD",
        "LAG",
        "OLDEST",
    ]
    assert lines[1].split() == [
        "shop.packing",
        "shop.order.placed",
        "0",
        "0.0",
        "0.0",
        "0",
        "0",
        "0",
        "0",
        "-",
    ]
    assert "from 50ms to 1h" in shop("stats", "--interval", "1ms").stderr


class Watched:
    """A storage of which each look finds more: 100 events were published, and 60 settled."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self.looks = 0

    async def groups(self) -> Sequence[GroupFigures]:
        self.looks += 1
        if self.looks == 3:
            self._stop()
        return [
            GroupFigures(
                group="shop.packing",
                subscription="packing",
                topic="shop.#",
                instances=2,
                published=100 * self.looks,
                backlog=40 * self.looks,
                lag=30,
                in_flight=10,
                retries=None,
                dead=1,
                oldest=75.0,
            )
        ]


async def test_live_stats_show_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The live table shows the rates since the last look, and ends with a signal."""
    monkeypatch.setenv("COLUMNS", "200")
    signals = Signals()
    monkeypatch.setattr(signals, "take_over", lambda act, _what: acts.append(act))
    acts: list[Callable[[], object]] = []
    watched = Watched(lambda: acts[0]())
    await stats._follow("shop", watched, 0.05, signals)  # type: ignore[arg-type]
    [row] = [line for line in capsys.readouterr().out.splitlines() if "shop.packing" in line]
    cells = row.split()
    rate_in, rate_out = (float(cell.replace(",", "")) for cell in cells[3:5])
    assert 0 < rate_out == pytest.approx(rate_in * 0.6, rel=0.01)
    assert cells[5:] == ["10", "-", "1", "30", "1m15s"]

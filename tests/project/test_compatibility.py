"""A plugin of the time of promenade-bus 0.1 runs on the core of today.

Its files are those of a wheel, in tests/project/frozen. From the release of 0.1 on they are never edited:
when the core of today cannot run them, it breaks the plugins of others, too. See
docs/reference/compatibility.md.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from bus_core import HealthStatus, open_bus
from bus_core.plugins import discover
from promenade_bus_cli.main import cli

FROZEN = Path(__file__).parent / "frozen"

# The digest of all its files, so that an edit is noticed. A plugin of a later version is a new directory.
DIGEST = "5a6d677eaffb7f17867a27bac640b4046c2d30d73004d85ec480b2d580087171"


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The frozen plugin is installed."""
    monkeypatch.syspath_prepend(str(FROZEN))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "promenade_frozen"]:
        del sys.modules[name]


def test_nobody_has_edited_it() -> None:
    """The files are those of promenade-frozen 1.0, byte for byte."""
    digest = hashlib.sha256()
    for path in sorted(path for path in FROZEN.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(path.relative_to(FROZEN).as_posix().encode() + b"\0" + path.read_bytes())
    assert digest.hexdigest() == DIGEST, "tests/project/frozen is never edited"


@pytest.mark.usefixtures("frozen")
def test_every_hook_is_accepted() -> None:
    """Discovery loads it, with an offer of every kind, and finds nothing wrong with it."""
    found = discover(only=["frozen"])
    (plugin,) = (plugin for plugin in found.installed if plugin.name == "frozen")
    assert (plugin.status, plugin.cause, plugin.origin) == ("loaded", None, "promenade-frozen 1.0")
    assert {kind for kind, _ in plugin.offers} == {
        *("adapter", "serializer", "retry policy", "middleware", "store", "topics"),
        *("health probe", "observer", "endpoint", "command"),
    }
    assert [finding for finding in found.findings() if "frozen" in finding.plugin] == []


@pytest.mark.usefixtures("frozen")
async def test_all_of_it_runs(tmp_path: Path) -> None:
    """Events go through its adapter, serializer, middleware, store and retry policy, and are observed."""
    config = {
        "app": {"name": "club"},
        "bus": {
            "adapter": "frozen",
            "frozen": {"path": str(tmp_path / "events.db")},
            "serializer": "frozen",
            "retry": {"policy": "frozen", "attempts": 2, "pause": "1ms"},
            "middleware": {
                "consume": ["frozen-counting", {"frozen-once": {"store": "frozen"}}],
                "publish": ["frozen-counting"],
            },
            "health": {"probes": [{"frozen": {"most_queued": 5}}]},
            "observers": ["frozen"],
            "plugins": {"only": ["frozen"]},
        },
    }
    bus = open_bus(config)
    from promenade_frozen.events import MEMBER_JOINED, MemberJoined, Plan  # type: ignore[import-not-found]
    from promenade_frozen.parts import SEEN  # type: ignore[import-not-found]

    SEEN.clear()
    joined: list[Any] = []

    async def greet(event: Any, delivery: Any) -> None:
        joined.append((event, delivery.attempt))

    async def refuse(event: Any) -> None:
        raise ValueError("no")

    member = MemberJoined(
        aggregate_id=uuid4(),
        email="ada@example.org",
        plan=Plan.PAID,
        fee=Decimal("9.90"),
        since=date(2026, 12, 1),
        tags=["early"],
        limits={"guests": 2},
    )
    async with bus:
        bus.subscribe(MEMBER_JOINED, greet, name="greet")
        bus.subscribe("frozen.#", refuse, name="refuse", ordered=False)
        await bus.publish("frozen.member.joined", member)
        await bus.publish(MEMBER_JOINED, member)
        await bus.drain()
        report = await bus.health()
        letters = await bus.dead_letters.list(subscription="refuse")

    assert joined == [(member, 1)]
    assert [letter.reason for letter in letters] == ["retries exhausted after 2 attempts"] * 2
    assert report.checks["frozen"].status is HealthStatus.HEALTHY
    assert SEEN["observes club on frozen"] == 1
    assert SEEN["publish frozen.member.joined"] == 2
    assert SEEN["consume frozen.member.joined"] == 6
    assert (SEEN["failed: retry"], SEEN["failed: dead_letter"]) == (2, 2)
    assert (SEEN["next_delay"], SEEN["timed greet"], SEEN["timed refuse"]) == (4, 1, 4)
    assert SEEN["encode"] >= 1
    assert SEEN["decode"] >= 4
    assert (SEEN["store started"], SEEN["store closed"]) == (1, 1)


@pytest.mark.usefixtures("frozen")
def test_its_endpoint_and_its_command_run() -> None:
    """The endpoint serves a bus, and the command line has the command with its help."""
    found = discover(only=["frozen"])
    bus = open_bus({"app": {"name": "club"}, "bus": {"adapter": "memory"}})
    serve = found.endpoints.select("frozen").value.load()
    with serve(bus, "here") as address:
        assert address == "frozen://here/club"

    done = CliRunner().invoke(cli, ["frozen", "--word", "snow"])
    assert (done.exit_code, done.output) == (0, "frozen says snow\n")
    assert "Say something." in CliRunner().invoke(cli, ["--help"]).output

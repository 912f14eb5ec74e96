"""The projects that ``promenade-bus new`` writes, as their authors and users have them.

Each kind is written and built. Its wheel is installed from wheels only into one empty environment, without
a network, where its tests run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from project.test_distributions import Environment, pack, run, third_party, wheelhouse
from promenade_bus_new import create
from support.served_pages import get, post, served

__all__ = ["wheelhouse"]

pytestmark = [pytest.mark.once, pytest.mark.timeout(400)]

KINDS: Mapping[str, str] = {
    "adapter": "ledger-file",
    "serializer": "tight",
    "middleware": "tenant",
    "retry-policy": "patient",
    "health-probe": "disk",
    "command": "count-topics",
    "context": "stock-taking",
    "app": "rain-shop",
}
NEEDED = ["fastapi", "httpx2", "pytest", "pytest-asyncio", "uvicorn"]
"""Distributions of others that the projects and their tests need, and no distribution of ours."""

BUILD = """
import os, sys
from hatchling.build import build_wheel
for directory in sys.argv[2:]:
    os.chdir(directory)
    build_wheel(sys.argv[1])
"""

OFFERS = {
    "ledger-file": [{"kind": "adapter", "name": "ledger-file"}],
    "tight": [{"kind": "serializer", "name": "tight"}],
    "tenant": [{"kind": "middleware", "name": "tenant"}],
    "patient": [{"kind": "retry policy", "name": "patient"}],
    "disk": [{"kind": "health probe", "name": "disk"}],
    "count-topics": [{"kind": "command", "name": "count-topics"}],
    "stock-taking": [{"kind": "topics", "name": "stock_taking"}],
    "rain-shop": [{"kind": "topics", "name": "billing"}, {"kind": "topics", "name": "ordering"}],
}

CONFIG = """
app: { name: shop }
bus:
  adapter: ledger-file
  ledger-file: { path: messages.db }
  serializer: { tight: { level: 9 } }
  middleware: { publish: [tenant], consume: [{ tenant: { required: true } }] }
  retry: { policy: patient, attempts: 2, eager: 2 }
  health: { probes: [disk] }
"""

USE = """
import asyncio
from uuid import uuid4
from bus_core import open_bus
from promenade_bus_tenant.middleware import CURRENT
from promenade_stock_taking import ITEM_ADDED, ItemAdded

async def main():
    async with open_bus("app.yaml") as bus:
        @bus.subscribe("stock_taking.#", name="failing", concurrency=1)
        async def failing(event):
            print(event.label, CURRENT.get())
            raise LookupError("no shelf")

        CURRENT.set("acme")
        await bus.publish(ITEM_ADDED, ItemAdded(aggregate_id=uuid4(), label="chair"))
        await bus.drain()
        [letter] = await bus.dead_letters.list()
        print(letter.reason, "and", (await bus.health()).checks["disk"].status.value)

asyncio.run(main())
"""


class Scaffolds:
    """A project of each kind, and an environment in which all of them are installed."""

    def __init__(self, directory: Path, wheelhouse: Path) -> None:
        self.projects = {
            kind: create(kind, name, directory=directory, author="Ada") for kind, name in KINDS.items()
        }
        wheels = directory / "wheels"
        wheels.mkdir()
        subprocess.run([sys.executable, "-c", BUILD, wheels, *self.projects.values()], check=True)
        for name, installed in third_party(NEEDED).items():
            if not [*wheelhouse.glob(f"{name.replace('-', '_')}-[0-9]*.whl")]:
                pack(installed, wheels)
        self.environment = Environment(directory, wheelhouse)
        self.environment.install(
            "--find-links", str(wheels), *(f"{path.name}[test]" for path in self.projects.values())
        )
        self.python = self.environment.python
        self.directory = directory

    def run(self, *arguments: str | Path) -> str:
        """Runs Python in the environment, and returns what it prints."""
        return run(self.python, *arguments, cwd=self.directory)

    def tests(self, *arguments: str, kinds: list[str] | None = None) -> None:
        """Runs the tests of projects in one go: their settings of pytest are the same."""
        self.run(
            *("-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *arguments),
            *("-c", self.projects["adapter"] / "pyproject.toml", "--rootdir", self.directory),
            *(self.projects[kind] / "tests" for kind in kinds or self.projects),
        )

    def sources(self) -> list[Path]:
        """The directories with code, of the packages and of the tests."""
        return [path / part for path in self.projects.values() for part in ("src", "tests")]


@pytest.mark.long
def test_each_kind_is_complete(tmp_path: Path, wheelhouse: Path) -> None:
    """Each project is installed alone from its wheel, offers what it says, is selected, tested and typed."""
    made = Scaffolds(tmp_path, wheelhouse)

    plugins = json.loads(made.run("-m", "bus_core", "plugins", "list", "--json"))
    listed = {plugin["name"]: plugin for plugin in plugins if plugin["name"] in OFFERS}
    assert {name: plugin["offers"] for name, plugin in listed.items()} == OFFERS
    assert {(plugin["status"], plugin["version"]) for plugin in listed.values()} == {("loaded", "0.1.0")}

    (tmp_path / "app.yaml").write_text(CONFIG)
    assert made.run("-m", "bus_core", "config", "check", "app.yaml") == "app.yaml: valid\n"
    (tmp_path / "use.py").write_text(USE)
    assert made.run("-W", "error", "use.py").splitlines() == [
        "chair acme",
        "chair acme",
        "retries exhausted after 2 attempts and healthy",
    ]
    counts = json.loads(made.run("-m", "bus_core", "count-topics", "--json"))
    assert counts == {"billing": 1, "ordering": 2, "stock_taking": 2}

    # Of the contract that is the adapter's test some parts: it takes long, and the next test runs all of it.
    made.tests("-k", "not TestLedgerFile or redrive or drain or killed")

    types = ["--strict", "--python-executable", made.python, "--cache-dir", tmp_path / "mypy"]
    settings = made.projects["app"] / "pyproject.toml"
    found = run(
        *(sys.executable, "-m", "mypy", *types, "--config-file", settings, *made.sources()), cwd=tmp_path
    )
    assert "Success" in found


@pytest.mark.long
def test_each_kind_at_length(tmp_path: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter keeps the whole contract, pyright finds nothing, and the application runs with a worker."""
    made = Scaffolds(tmp_path, wheelhouse)
    made.tests(kinds=["adapter"])

    monkeypatch.setenv("PYRIGHT_PYTHON_GLOBAL_NODE", "0")
    found = run(
        *(sys.executable, "-m", "pyright", "--pythonpath", made.python, *made.sources()), cwd=tmp_path
    )
    assert "0 errors" in found

    app = made.projects["app"]
    with (
        served(app, "uvicorn", "rain_shop.web:app", "--port", "0", python=made.python) as web,
        served(app, "bus_core", "run", "rain_shop.bus:make_worker", python=made.python) as worker,
    ):
        at = web.printed(r"Uvicorn running on (http://[\d.]+:\d+)")[1]
        worker.printed("rain-shop is running on 'sqlite' with 2 subscriptions")
        assert post(f"{at}/orders?customer=Ada&total_cents=1250").status_code == 201
        assert get(f"{at}/bus/readyz").json() == {"status": "ready"}
        worker.stop()
        worker.printed("handled . events?, 0 dead-lettered, 0 lost")

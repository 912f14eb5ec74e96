from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import importlib_metadata
import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]

# What plugins depend on must not be loaded before the plugin is selected. The others nobody has any use for.
HEAVY = {
    "aiohttp",
    "cattrs",
    "click",
    "fastavro",
    "hypothesis",
    "msgspec",
    "opentelemetry",
    "orjson",
    "prometheus_client",
    "pycountry",
    "pydantic",
    "pytest",
    "redis",
    "rich",
    "sentry_sdk",
    "sqlalchemy",
    "sqlite3",
    "tzdata",
    "uvicorn",
    "unittest",
}


def loaded_after(statements: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after these statements."""
    code = f"{statements}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(names)


@pytest.mark.parametrize(
    "statements",
    [
        "import bus_core",
        "import bus_core; bus_core.open_bus({'bus': {'adapter': 'memory'}})",
        "import bus_core; bus_core.open_bus({'bus': {'adapter': 'memory', 'memory': {'serialize': True}}})",
        "import bus_core; bus_core.open_sync_bus({'bus': {'adapter': 'memory'}})",
        "import bus_core; bus_core.open_bus('examples/crm/app.yaml')",
    ],
    ids=["import", "memory", "bytes", "sync", "file"],
)
def test_nothing_heavy_is_loaded(statements: str) -> None:
    """Importing the core, and opening a bus on memory, load nothing that another plugin needs."""
    assert heavy_in(loaded_after(statements), HEAVY) == set()


ENTRY_POINTS = [
    entry.value
    for entry in importlib_metadata.entry_points(group="promenade_bus")
    if entry.dist is not None and entry.dist.name.startswith("promenade-")
]
"""The plugin modules of this repository."""

NOT_FOR_A_LIST = HEAVY | {"asyncio", "yaml"}
"""Nobody needs these to list what is installed."""


def contracts_in(loaded: set[str]) -> set[str]:
    """The modules that define events and catalogues of contexts."""
    return {name for name in loaded if re.fullmatch(r"promenade_\w+\.(events|catalogue|values)", name)}


def heavy_in(loaded: set[str], heavy: set[str]) -> set[str]:
    return {name for name in loaded if name in heavy or name.partition(".")[0] in heavy}


def test_every_plugin_is_looked_at() -> None:
    """The tests below see every plugin and context of this repository, and its example."""
    assert len(ENTRY_POINTS) == len({*ROOT.glob("plugins/*"), *ROOT.glob("contexts/*")}) + 1


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_a_plugin_module_is_light(module: str) -> None:
    """Loading a plugin imports no library of its own, no events of a context, no converter, no event loop."""
    loaded = loaded_after(f"import {module}")
    assert heavy_in(loaded, NOT_FOR_A_LIST) == set()
    assert contracts_in(loaded) == set()


@pytest.mark.parametrize(
    "command",
    [
        "main(['--help'])",
        "main(['groups', '--help'])",
        "main(['account', '--help'])",
        "main(['demo', '--help'])",
        "main(['nothing'])",
        "complete('')",
        "complete('gr')",
        "complete('groups list --')",
    ],
)
def test_help_and_completion_are_light(command: str) -> None:
    """The help of the command line and of its commands, and completion, import no plugin's library."""
    loaded = loaded_after(
        "import os, sys\n"
        "from promenade_bus_cli.main import main\n"
        "def complete(typed):\n"
        "    words = ('promenade-bus ' + typed).split(' ')\n"
        "    os.environ.update(_PROMENADE_BUS_COMPLETE='bash_complete', COMP_WORDS=' '.join(words),\n"
        "                      COMP_CWORD=str(len(words) - 1))\n"
        "    main()\n"
        "try:\n"
        f"    {command}\n"
        "except SystemExit:\n"
        "    pass\n"
    )
    assert "promenade_bus_redis" in loaded
    assert heavy_in(loaded, HEAVY - {"click"}) == set()
    assert contracts_in(loaded) == set()


def test_importing_the_core_loads_no_plugin() -> None:
    """Plugins are looked for when a bus is opened, not when the core is imported."""
    loaded = loaded_after("import bus_core")
    assert [name for name in loaded if name.startswith("promenade_")] == []


def test_only_what_is_selected_is_loaded() -> None:
    """Plugins that ``plugins: {only: [...]}`` excludes are not imported."""
    loaded = loaded_after(
        "import bus_core; bus_core.open_bus({'bus': {'adapter': 'memory', 'plugins': {'only': ['memory']}}})"
    )
    assert {name.partition(".")[0] for name in loaded if name.startswith("promenade_")} == {
        "promenade_bus_memory"
    }


def test_importing_the_core_starts_nothing() -> None:
    """Importing the core, and opening a bus, start no thread and touch no event loop."""
    loaded_after(
        "import threading, bus_core, asyncio\n"
        "config = {'bus': {'adapter': 'memory'}}\n"
        "buses = bus_core.open_bus(config), bus_core.open_sync_bus(config)\n"
        "assert threading.active_count() == 1\n"
        "assert asyncio.get_event_loop_policy()._local._loop is None"
    )


def test_warnings_are_none() -> None:
    """Importing and using the core gives no warning."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "import asyncio, bus_core\n"
            "async def main():\n"
            "    async with bus_core.open_bus({'bus': {'adapter': 'memory'}}) as bus:\n"
            "        await bus.drain()\n"
            "asyncio.run(main())",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What plugins depend on must not be loaded before the plugin is selected. The others nobody has any use for.
HEAVY = {
    "aiohttp",
    "click",
    "hypothesis",
    "msgspec",
    "opentelemetry",
    "orjson",
    "pycountry",
    "pydantic",
    "pytest",
    "redis",
    "rich",
    "sqlite3",
    "tzdata",
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
        "import bus_core; bus_core.open_sync_bus({'bus': {'adapter': 'memory'}})",
        "import bus_core; bus_core.open_bus('config/app.sqlite-dev.yaml')",
    ],
    ids=["import", "memory", "sync", "sqlite-dev"],
)
def test_nothing_heavy_is_loaded(statements: str) -> None:
    """Importing the core, and opening a bus on memory, load nothing that another plugin needs."""
    loaded = loaded_after(statements)
    heavy = {name for name in loaded if name in HEAVY or name.partition(".")[0] in HEAVY}
    assert heavy == set()


def test_importing_the_core_loads_no_plugin() -> None:
    """Plugins are looked for when a bus is opened, not when the core is imported."""
    loaded = loaded_after("import bus_core")
    assert [name for name in loaded if name.startswith("promenade_")] == []


def test_only_what_is_selected_is_loaded() -> None:
    """What ``plugins: {only: [...]}`` excludes is not imported."""
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

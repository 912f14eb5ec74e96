"""``--app MODULE:ATTR``: the accepted values, and the errors for all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Any
Module = Callable[[str], str]

SOURCE = """
bus = open_bus(CONFIG)
sync_bus = open_sync_bus(CONFIG)

def make():
    return open_bus(CONFIG)

async def make_async():
    return open_bus(CONFIG)

def make_sync():
    return open_sync_bus(CONFIG)

class Wiring:
    bus = open_bus(CONFIG)

async def make_started():
    bus = open_bus(CONFIG)
    await bus.start()
    return bus

def needs(what): ...
def fails(): raise LookupError("no database")
def nothing(): ...
number = 3
"""


@pytest.mark.parametrize("attribute", ["bus", "sync_bus", "make", "make_async", "make_sync", "Wiring.bus"])
def test_a_bus_or_a_function_that_returns_one_is_accepted(run: Run, module: Module, attribute: str) -> None:
    """A Bus, a SyncBus, and functions that return one, async ones too, are started and closed."""
    name = module(SOURCE)
    assert run.json("health", "--app", f"{name}:{attribute}")["status"] == "healthy"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("buss", "has no attribute 'buss'; did you mean 'bus'"),
        ("Wiring.bs", "Wiring has no attribute 'bs'"),
        ("number", "is an object of type int; expected a Bus or SyncBus that is not started"),
        ("nothing", "returned None; expected a Bus"),
        ("needs", "cannot be called without arguments (missing a required argument: 'what')"),
        ("fails", "failed: LookupError: no database"),
        ("make_started", "is already open; return it as open_bus() does"),
    ],
)
def test_anything_else_is_an_error_that_says_why(
    run: Run, module: Module, attribute: str, message: str
) -> None:
    """A wrong attribute gives status 2 and names its type, or the nearest attribute."""
    name = module(SOURCE)
    result = run("health", "--app", f"{name}:{attribute}")
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_error_of_the_bus_inside_of_a_factory_is_told_as_it_is(run: Run, module: Module) -> None:
    """A factory whose configuration is wrong gives the faults of the configuration."""
    name = module("def make(): return open_bus({'bus': {'adaptor': 'memory'}})")
    result = run("health", "--app", f"{name}:make")
    assert result.exit_code == 2
    assert "unknown key 'adaptor', did you mean 'adapter'?" in result.output


@pytest.mark.parametrize("spec", ["shop", "shop:", ":bus"])
def test_the_form_of_the_option_is_explained(run: Run, spec: str) -> None:
    """A value that is not MODULE:ATTR gives an error with an example."""
    result = run("health", "--app", spec)
    assert result.exit_code == 2
    assert "write MODULE:ATTR, such as 'myshop.main:bus'" in result.output


def test_a_missing_module_is_told_with_where_it_was_looked_for(run: Run, tmp_path: Path) -> None:
    """The message for a missing module names it and the current directory."""
    result = run("health", "--app", "app_nowhere.main:bus")
    assert result.exit_code == 2
    assert f"no module named 'app_nowhere' in {tmp_path}" in result.output


def test_a_module_that_misses_another_one_is_not_itself_missing(run: Run, module: Module) -> None:
    """A failed import inside the module is reported with file and line."""
    name = module("import app_missing_dependency")
    result = run("health", "--app", f"{name}:bus")
    assert result.exit_code == 2
    assert f"the module {name!r} cannot be imported: ModuleNotFoundError" in result.output
    assert f"{name}.py:" in result.output


def test_a_module_that_exits_is_an_error_like_any_other(run: Run, module: Module) -> None:
    """SystemExit while the module is imported does not end the command silently."""
    name = module("raise SystemExit(0)")
    result = run("health", "--app", f"{name}:bus")
    assert result.exit_code == 2
    assert "cannot be imported: SystemExit: 0" in result.output

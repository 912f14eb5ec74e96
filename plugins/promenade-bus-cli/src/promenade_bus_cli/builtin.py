"""The built-in commands by name. Nothing is imported until a command is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final

__all__ = ["commands"]

_MODULES: Final = {
    "config": "config",
    "explain": "explain",
    "health": "health",
    "plugins": "plugins",
    "publish": "publish",
    "run": "run",
    "topics": "topics",
}


def commands() -> Mapping[str, Callable[[], Any]]:
    """For each command a function that loads it; the modules are named like their commands."""
    return {name: partial(_load, module, name) for name, module in _MODULES.items()}


def _load(module: str, name: str) -> Any:
    return getattr(import_module(f"promenade_bus_cli.{module}"), name)

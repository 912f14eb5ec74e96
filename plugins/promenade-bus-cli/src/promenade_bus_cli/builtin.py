"""The built-in commands by name. Nothing is imported until a command is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final

from bus_core import Command

__all__ = ["COMMANDS"]

_HELP: Final = {
    "config": "Check a configuration file, or show what it comes to.",
    "explain": "Explain what happens to events, of TOPIC (a name or a pattern) or of every topic.",
    "health": "Start the bus, run its health probes, and close it.",
    "plugins": "Show the installed plugins, and examine them.",
    "publish": "Publish one event, or a file of events.",
    "run": "Run an application's bus as a worker, until SIGTERM or SIGINT (Ctrl-C).",
    "topics": "List the topics of the installed catalogues.",
}


def _load(name: str) -> Any:
    """The command; its module is named like it."""
    return getattr(import_module(f"promenade_bus_cli.{name}"), name)


COMMANDS: Final[Mapping[str, Command]] = {
    name: Command(help=text, load=partial(_load, name)) for name, text in _HELP.items()
}

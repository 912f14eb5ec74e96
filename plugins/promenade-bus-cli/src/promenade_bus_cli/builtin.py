"""The built-in commands by name. A command is imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final

from bus_core import Command

__all__ = ["COMMANDS"]

_HELP: Final = {
    "config": "Check a configuration file, or show the effective configuration.",
    "dead-letters": "Count, show, redrive and purge dead letters.",
    "explain": "Explain what happens to the events of TOPIC (a name or a pattern), or of every topic.",
    "health": "Start the bus, run its health probes, and close it.",
    "plugins": "List the installed plugins, and check them.",
    "publish": "Publish one event, or a file of events.",
    "replay": "Hand kept events to one subscription again, and to no other.",
    "run": "Run an application's bus as a worker, until SIGTERM or SIGINT (Ctrl-C).",
    "stats": "Show the load of each subscription, over all instances, until Ctrl-C.",
    "tail": "Follow the events of a topic or a pattern, from now on.",
    "topics": "List the topics of the installed catalogues.",
}


def _load(name: str) -> Any:
    """Imports a command from the module of the same name."""
    module = name.replace("-", "_")
    return getattr(import_module(f"promenade_bus_cli.{module}"), module)


COMMANDS: Final[Mapping[str, Command]] = {
    name: Command(help=text, load=partial(_load, name)) for name, text in _HELP.items()
}

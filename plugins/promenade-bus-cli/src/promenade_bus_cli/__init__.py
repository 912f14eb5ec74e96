"""The command line of Promenade Bus, itself a plugin that offers commands."""

from collections.abc import Callable, Mapping
from typing import Any

from bus_core import hookimpl
from promenade_bus_cli.builtin import commands

__all__ = ["promenade_bus_commands"]


@hookimpl
def promenade_bus_commands() -> Mapping[str, Callable[[], Any]]:
    """Offers every built-in command, loaded when it is asked for."""
    return commands()

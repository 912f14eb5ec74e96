"""The command line of Promenade Bus, itself a plugin that offers commands."""

from collections.abc import Mapping

from bus_core import Command, hookimpl
from promenade_bus_cli.builtin import COMMANDS

__all__ = ["promenade_bus_commands"]


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Returns the built-in commands; each is loaded on first use."""
    return COMMANDS

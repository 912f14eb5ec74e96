"""Loads the click commands of plugins, and reports a failure as a fault of that plugin."""

from __future__ import annotations

import click

from bus_core import Command
from bus_core.plugins import Offer
from promenade_bus_cli.failures import CommandFailed

__all__ = ["load_command"]


def load_command(offer: Offer[Command]) -> click.Command:
    """Loads the click command that a plugin offers; raises ``CommandFailed`` when that fails."""
    broken = f"the command {offer.name!r} of {offer.origin} cannot be loaded"
    try:
        command = offer.value.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit in a plugin must not end this command
        raise CommandFailed(f"{broken}: {type(error).__name__}: {error}") from error
    if not isinstance(command, click.Command):
        raise CommandFailed(
            f"{broken}: load returned an object of type {type(command).__name__}, not a click command"
        )
    return command

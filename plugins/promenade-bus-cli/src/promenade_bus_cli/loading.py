"""The click commands of plugins, loaded with care: a fault of a plugin must not look like one of ours."""

from __future__ import annotations

import click

from bus_core import Command
from bus_core.plugins import Offer
from promenade_bus_cli.failures import CommandFailed

__all__ = ["load_command"]


def load_command(offer: Offer[Command]) -> click.Command:
    """The click command that a plugin offers; raises ``CommandFailed`` when it cannot be loaded."""
    broken = f"the command {offer.name!r} of {offer.origin} cannot be loaded"
    try:
        command = offer.value.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # not even SystemExit may end what asked for it
        raise CommandFailed(f"{broken}: {type(error).__name__}: {error}") from error
    if not isinstance(command, click.Command):
        raise CommandFailed(
            f"{broken}: it is an object of type {type(command).__name__}, not a click command"
        )
    return command

"""How a command fails: one clear message, and an exit status that says which kind of failure it is."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import click

from bus_core import BusError, EventError, PublishError, SerializationError
from promenade_bus_cli.output import clean

__all__ = ["INTERRUPTED", "REFUSED", "USAGE", "CommandFailed", "Interrupted", "leave_now", "status_of"]

REFUSED = 1
"""The command was understood, and its work did not end well."""

USAGE = 2
"""The command, the configuration or the application cannot be used as it is."""


INTERRUPTED = 130
"""Ctrl-C has ended the command."""


class CommandFailed(click.ClickException):
    """Ends a command with a message; ``exit_code`` is the exit status.

    What others have made, such as names on a server, may stand in it: nothing of it commands a terminal.
    """

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__("\n".join(map(clean, message.split("\n"))))
        self.exit_code = exit_code  # type: ignore[misc]  # declared for the class, read from the instance


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, which the command has answered: it has closed what it had opened, and needs to say no more."""


def status_of(error: BusError) -> int:
    """The exit status for an error of the bus."""
    return REFUSED if isinstance(error, EventError | PublishError | SerializationError) else USAGE


def leave_now(status: int) -> NoReturn:
    """Ends the process although threads, or abandoned handlers, still run: they may never return."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)

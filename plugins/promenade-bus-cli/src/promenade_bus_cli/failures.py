"""How a command fails: one clear message, and an exit status that says which kind of failure it is."""

from __future__ import annotations

import click

from bus_core import BusError, EventError, PublishError, SerializationError

__all__ = ["REFUSED", "USAGE", "CommandFailed", "status_of"]

REFUSED = 1
"""The command was understood, and its work did not end well."""

USAGE = 2
"""The command, the configuration or the application cannot be used as it is."""


class CommandFailed(click.ClickException):
    """Ends a command with a message; ``exit_code`` is the exit status."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # declared for the class, read from the instance


def status_of(error: BusError) -> int:
    """The exit status for an error of the bus."""
    return REFUSED if isinstance(error, EventError | PublishError | SerializationError) else USAGE

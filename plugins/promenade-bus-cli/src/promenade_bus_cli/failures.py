"""The failure of a command: one message, and an exit status for the kind of failure."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any, Final, NoReturn

import click

from bus_core import (
    AdapterError,
    BusError,
    DeadLetterNotFound,
    EventError,
    PublishError,
    SerializationError,
    UnhealthyError,
    UnknownSubscription,
)
from promenade_bus_cli.output import clean

__all__ = [
    "INTERRUPTED",
    "REFUSED",
    "UNHEALTHY",
    "UNREACHABLE",
    "USAGE",
    "CommandFailed",
    "Interrupted",
    "confirm",
    "failure_as_data",
    "leave_now",
    "status_of",
]

REFUSED = 1
"""The command ran, and part of its work failed."""

USAGE = 2
"""The command, the configuration or the application is invalid."""

UNHEALTHY = 3
"""The bus is unhealthy."""

UNREACHABLE = 4
"""The server or the storage behind the adapter cannot be reached, or does not do what it is asked to."""

INTERRUPTED = 130
"""Ctrl-C ended the command."""


class CommandFailed(click.ClickException):
    """Ends a command with a message; ``exit_code`` is the exit status.

    Control characters are replaced, because the message may contain names from a server.
    """

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__("\n".join(map(clean, message.split("\n"))))
        self.exit_code = exit_code  # type: ignore[misc]  # declared for the class, read from the instance


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after the command has closed its bus and printed its account: print nothing more."""


def status_of(error: BusError) -> int:
    """Returns the exit status for an error of the bus."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return USAGE


_STATUSES: Final = (
    (EventError | PublishError | SerializationError | UnknownSubscription | DeadLetterNotFound, REFUSED),
    (UnhealthyError, UNHEALTHY),
    (AdapterError, UNREACHABLE),
)

_KINDS: Final = {
    REFUSED: "failed",
    USAGE: "invalid",
    UNHEALTHY: "unhealthy",
    UNREACHABLE: "unreachable",
}


def failure_as_data(message: str, status: int) -> dict[str, Any]:
    """Returns a failure as plain data, for commands that print JSON."""
    return {"error": {"kind": _KINDS.get(status, "failed"), "status": status, "message": message}}


def leave_now(status: int) -> NoReturn:
    """Ends the process at once, even while threads or abandoned handlers still run."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


async def confirm(question: str) -> None:
    """Asks before a command changes something. Raises ``CommandFailed`` when the answer is no."""
    try:
        await asyncio.to_thread(click.confirm, question, abort=True, err=True)
    except click.Abort:
        raise CommandFailed("nothing was done; --yes does not ask", REFUSED) from None

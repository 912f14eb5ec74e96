"""Loads the click commands of plugins, and gives them the adapter that a configuration selects."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from bus_core import Adapter, AnyAdapter, Command, open_bus
from bus_core.plugins import Offer
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.signals import run_interruptible

__all__ = ["load_command", "run_on_adapter"]

A = TypeVar("A", bound=Adapter)
T = TypeVar("T")


def run_on_adapter(
    config: str, choose: Callable[[AnyAdapter], A], use: Callable[[A], Coroutine[Any, Any, T]]
) -> T:
    """Starts the adapter of a configuration without its bus, uses it, and closes it.

    ``choose`` returns the adapter, or raises ``BusError`` when it is of another kind.
    """

    async def run() -> T:
        adapter = choose(open_bus(config).adapter)
        await adapter.start()
        try:
            return await use(adapter)
        finally:
            await adapter.close()

    return run_interruptible(run())


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

"""Contracts between the contexts of an application: lock files, checks, AsyncAPI and a catalogue."""

from collections.abc import Mapping
from typing import Any

from bus_core import Command, hookimpl

__all__ = ["promenade_bus_commands"]


def _load() -> Any:
    from promenade_bus_contracts.command import contracts

    return contracts


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Returns the command ``promenade-bus contracts``."""
    return {"contracts": Command(help="Lock, check and document the contracts of contexts.", load=_load)}

"""Adds the command ``demo`` to the command line; found through the entry point of this distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus_core import Command, hookimpl


def _load_demo() -> Any:
    from crm.command import demo

    return demo


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Offers ``promenade-bus demo``."""
    about = "Run three contexts and an audit on one bus, and account for every event."
    return {"demo": Command(help=about, load=_load_demo)}

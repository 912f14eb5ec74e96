"""Adds the command ``demo`` to the command line; found through the entry point of this distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus_core import hookimpl


@hookimpl
def promenade_bus_commands() -> Mapping[str, Any]:
    """The commands of the example, each behind a function that imports what it needs."""

    def demo() -> Any:
        from crm.command import demo

        return demo

    return {"demo": demo}

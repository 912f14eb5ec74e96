"""The testing kit as a plugin of the bus: the middleware ``chaos`` and the command ``account``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bus_core import BuildContext, Command, Factory, Middleware, hookimpl

if TYPE_CHECKING:
    from promenade_bus_testing.config import ChaosOptions

__all__ = ["promenade_bus_commands", "promenade_bus_middleware"]


def _build_chaos(options: ChaosOptions, context: BuildContext) -> Middleware:
    from promenade_bus_testing.chaos import chaos_middleware

    return chaos_middleware(options, context.clock)


def _load_account() -> Any:
    from promenade_bus_testing.account_command import account_command

    return account_command()


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Returns the command ``promenade-bus account``."""
    about = "Report the outcome of each event from JOURNALS, files or directories."
    return {"account": Command(help=about, load=_load_account)}


@hookimpl
def promenade_bus_middleware() -> Mapping[str, Factory[Any, Middleware]]:
    """Returns the middleware ``chaos``."""
    from promenade_bus_testing.config import ChaosOptions

    return {"chaos": Factory(options=ChaosOptions, build=_build_chaos)}

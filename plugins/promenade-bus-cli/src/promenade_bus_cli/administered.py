"""Commands on the whole storage behind an adapter: only the adapter is started."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from bus_core import BusError
from bus_core.abc import AdministeredAdapter, Administration
from promenade_bus_cli.apps import App, run_with_app
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.signals import Signals

__all__ = ["run_with_administration"]

R = TypeVar("R")


def run_with_administration(
    spec: str | None,
    config: str | None,
    use: Callable[[App, Administration], Coroutine[Any, Any, R]],
    signals: Signals,
    command: str,
) -> R:
    """Runs a coroutine on the view of the storage of ``--app`` or ``--config``. No subscription is opened.

    Raises ``CommandFailed`` for an adapter without one.
    """

    async def with_adapter(app: App) -> R:
        adapter = app.bus.adapter
        if not adapter.features.admin:
            raise CommandFailed(
                f"{command} needs an adapter with the feature 'admin', such as redis with streams or sqlite; "
                f"{adapter.name!r} as it is configured does not have it"
            )
        await adapter.start()
        try:
            return await use(app, cast(AdministeredAdapter, adapter).admin)
        finally:
            with suppress(BusError):  # what failed before says more
                await adapter.close()

    return run_with_app(spec, config, with_adapter, signals)

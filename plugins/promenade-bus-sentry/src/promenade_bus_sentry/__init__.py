"""Failed attempts of Promenade Bus for Sentry: the observer ``sentry``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, Observer, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_sentry.config import SentryOptions
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(__name__, {"config": "SentryOptions"})

__all__ = ["SentryOptions", "promenade_bus_observers"]


def _build(options: SentryOptions, context: BuildContext) -> Observer:
    from promenade_bus_sentry.observing import observer

    return observer(options, context.service)


@hookimpl
def promenade_bus_observers() -> Mapping[str, Factory[typing.Any, Observer]]:
    """Returns the observer ``sentry``."""
    from promenade_bus_sentry.config import SentryOptions

    return {"sentry": Factory(options=SentryOptions, build=_build)}

"""Factories of the parts. Their imports happen when one is made, not at discovery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bus_core import Adapter, BuildContext, Factory, HealthProbe
from promenade_bus_postgres.config import PostgresOptions, ProbeOptions

__all__ = ["ADAPTER", "PROBE"]


def _build_adapter(options: PostgresOptions, context: BuildContext) -> Adapter:
    """The adapter."""
    from promenade_bus_postgres.adapter import PostgresAdapter

    return PostgresAdapter(options, context)


def _check(options: PostgresOptions | None, sections: Mapping[str, Any]) -> Iterable[str]:
    """The faults of options that are valid one by one, and of the section of the application."""
    from promenade_bus_postgres.places import check_options

    return check_options(options, sections)


def _build_probe(options: ProbeOptions, context: BuildContext) -> HealthProbe:
    """The health probe for the adapter of the bus."""
    from promenade_bus_postgres.health import PostgresProbe

    return PostgresProbe(options, context.adapter)


ADAPTER: Final[Factory[PostgresOptions, Adapter]] = Factory(
    options=PostgresOptions, build=_build_adapter, sections=("database.postgres",), check=_check
)
"""The adapter ``postgres``."""

PROBE: Final[Factory[ProbeOptions, HealthProbe]] = Factory(options=ProbeOptions, build=_build_probe)
"""The health probe ``postgres``."""

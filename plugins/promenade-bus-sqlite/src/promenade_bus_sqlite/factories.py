"""Factories of the parts. Their imports happen when one is made, not at discovery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bus_core import Adapter, BuildContext, Factory, HealthProbe
from promenade_bus_sqlite.config import ProbeOptions, SqliteOptions

__all__ = ["ADAPTER", "PROBE"]


def _build_adapter(options: SqliteOptions, context: BuildContext) -> Adapter:
    """The adapter."""
    from promenade_bus_sqlite.adapter import SqliteAdapter

    return SqliteAdapter(options, context)


def _check(options: SqliteOptions | None, sections: Mapping[str, Any]) -> Iterable[str]:
    """The faults of options that are valid one by one, and of the section of the application."""
    from promenade_bus_sqlite.places import check_options

    return check_options(options, sections)


def _build_probe(options: ProbeOptions, context: BuildContext) -> HealthProbe:
    """The health probe for the adapter of the bus."""
    from promenade_bus_sqlite.health import SqliteProbe

    return SqliteProbe(options, context.adapter)


ADAPTER: Final[Factory[SqliteOptions, Adapter]] = Factory(
    options=SqliteOptions, build=_build_adapter, sections=("database.sqlite",), check=_check
)
"""The adapter ``sqlite``."""

PROBE: Final[Factory[ProbeOptions, HealthProbe]] = Factory(options=ProbeOptions, build=_build_probe)
"""The health probe ``sqlite``."""

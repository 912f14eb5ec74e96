"""The place of the file: ``bus.sqlite`` wins over ``database.sqlite``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from bus_core.config import read_settings
from promenade_bus_sqlite.config import DatabaseSection, SqliteOptions

__all__ = ["SECTION", "Place", "check_options", "place_of"]

SECTION: Final = "database.sqlite"

_BUSY_TIMEOUT: Final = 5.0


@attrs.frozen
class Place:
    """The path of the file, and the seconds that a call waits while another process writes."""

    path: str
    busy_timeout: float


def check_options(options: SqliteOptions | None, sections: Mapping[str, Any]) -> list[str]:
    """Every fault of options that are valid one by one, and of the foreign section, with its path."""
    faults: list[str] = []
    foreign = _foreign(sections, faults)
    if options is not None and not faults and not (options.path or foreign.path):
        faults.append("say where the file is: bus.sqlite.path, or database.sqlite.path @ $.bus.sqlite")
    return faults


def place_of(options: SqliteOptions, sections: Mapping[str, Any]) -> Place:
    """The place of the file. Raises ``ValueError`` for options that ``check_options`` rejects."""
    faults = check_options(options, sections)
    if faults:
        raise ValueError("; ".join(faults))
    foreign = _foreign(sections, [])
    timeout = options.busy_timeout or foreign.busy_timeout or _BUSY_TIMEOUT
    return Place(options.path or foreign.path or "", timeout)


def _foreign(sections: Mapping[str, Any], faults: list[str]) -> DatabaseSection:
    section = sections.get(SECTION)
    read = read_settings(DatabaseSection, section, "$.database.sqlite", faults, ignore_unknown=True)
    return read or DatabaseSection()

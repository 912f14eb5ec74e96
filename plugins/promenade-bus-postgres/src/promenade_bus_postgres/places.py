"""Where the server is: ``bus.postgres`` wins over ``database.postgres``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from bus_core.config import read_settings
from promenade_bus_postgres.config import DatabaseSection, PostgresOptions

__all__ = ["SECTION", "Place", "check_options", "place_of"]

SECTION: Final = "database.postgres"
_PATH: Final = "$.database.postgres"
_POOL: Final = 5


@attrs.frozen
class Place:
    """The parameters of a connection, as libpq has them, and the size of the pool. Its texts hide secrets."""

    parameters: Mapping[str, str | int] = attrs.field(repr=False)
    pool_size: int
    name: str

    def __str__(self) -> str:
        return self.name


def check_options(options: PostgresOptions | None, sections: Mapping[str, Any]) -> list[str]:
    """Every fault of options that are sound one by one, and of the foreign section, with its path."""
    faults: list[str] = []
    foreign = _foreign(sections, faults)
    if options is not None and not faults:
        own = options.url, options.host
        if not any((*own, foreign.url, foreign.host)):
            faults.append(
                "say where the server is: bus.postgres.url or host, or database.postgres @ $.bus.postgres"
            )
        elif not (options.url or (options.host is None and foreign.url) or options.name or foreign.name):
            faults.append("say which database: bus.postgres.name, or database.postgres.name @ $.bus.postgres")
        for url, path in ((options.url, "$.bus.postgres.url"), (foreign.url, f"{_PATH}.url")):
            if url and not url.startswith(("postgresql://", "postgres://")):
                faults.append(f"must begin with postgresql:// @ {path}")
    return faults


def place_of(options: PostgresOptions, sections: Mapping[str, Any]) -> Place:
    """Where the server is; raises ``ValueError`` for options that ``check_options`` finds fault with."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    faults = check_options(options, sections)
    if faults:
        raise ValueError("; ".join(faults))
    foreign = _foreign(sections, [])
    is_own = options.url is not None or options.host is not None
    parameters: dict[str, Any] = {}
    url = options.url or (None if is_own else foreign.url)
    if url:
        try:
            parameters.update(conninfo_to_dict(str(url)))
        except ProgrammingError:
            # Its text would show the URL.
            raise ValueError("the URL of PostgreSQL cannot be read; see libpq's connection URIs") from None
    sources = (options,) if url else (foreign, options)
    for source in sources:
        for field, name in _NAMES.items():
            value = getattr(source, field)
            if value is not None:
                parameters[name] = str(value)
    pool_size = options.pool_size or foreign.pool_size or _POOL
    host, port = parameters.get("host", "localhost"), str(parameters.get("port", "")).strip(",") or "5432"
    return Place(parameters, pool_size, f"{host}:{port}/{parameters.get('dbname', '')}")


_NAMES: Final = {
    "host": "host",
    "port": "port",
    "name": "dbname",
    "user": "user",
    "password": "password",
    "sslmode": "sslmode",
}


def _foreign(sections: Mapping[str, Any], faults: list[str]) -> DatabaseSection:
    section = sections.get(SECTION)
    read = read_settings(DatabaseSection, section, _PATH, faults, ignore_unknown=True)
    return read or DatabaseSection()

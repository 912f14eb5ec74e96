"""The public names, which are imported when they are used."""

from __future__ import annotations

from typing import Final

from bus_core import on_demand

__all__ = ["find"]

_ON_SQLALCHEMY: Final = {"inbox": "Inbox", "outbox": "Outbox", "tables": "OutboxTables outbox_tables"}
_ALONE: Final = {
    "connection": "OutboxConnection OutboxDatabase",
    "drivers": "DriverDatabase",
    "errors": "MissingTables OutboxError WrongSession",
    "outbox_relay": "OutboxRelay",
    "status": "OutboxStatus",
}

# Without __dir__: the bus looks for hooks at every name that dir() lists.
_find, _ = on_demand.names("promenade_bus_outbox", _ALONE | _ON_SQLALCHEMY)


def find(name: str) -> object:
    """The ``__getattr__`` of the package; raises ``MissingExtra`` for a name that needs SQLAlchemy."""
    try:
        return _find(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "sqlalchemy":
            raise
        from promenade_bus_outbox.errors import MissingExtra

        raise MissingExtra(name, "SQLAlchemy", "sqlalchemy") from error

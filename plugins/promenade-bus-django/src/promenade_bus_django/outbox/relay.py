"""The relay of ``promenade-bus-outbox`` on a database of the project. It needs the extra ``outbox``.

``promenade-bus outbox relay --outbox promenade_bus_django.outbox.relay:application`` finds the project here.
"""

from __future__ import annotations

import asyncio
import sqlite3
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bus_core import Bus, SyncBus, open_bus
from promenade_bus_django.outbox.wakers import RELAYS
from promenade_bus_django.project_bus import DatabaseUnreachable

if TYPE_CHECKING:
    from promenade_bus_outbox import DriverDatabase, OutboxRelay

__all__ = ["RelayBeside", "database_of", "outbox_of"]

_LAST_WORDS: Final = 12.0
"""Seconds that the relay gets to give up its leases, also if a handler blocks the event loop."""


def __getattr__(name: str) -> Any:
    """Makes ``application``, the outbox of the project on a bus without handlers, when it is asked for."""
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not apps.ready:
        django.setup()
    from promenade_bus_django import conf

    outbox, close = outbox_of(open_bus(conf.source()))
    weakref.finalize(outbox, close)
    return outbox


def outbox_of(bus: Bus | SyncBus) -> tuple[OutboxRelay, Callable[[], None]]:
    """The relay of ``promenade-bus-outbox`` for a bus, and a function that closes its connections.

    It is on the database of the setting. Raises ``ImproperlyConfigured`` if the distribution is not
    installed, or for a database of another kind.
    """
    from promenade_bus_django.outbox.conf import outbox_settings

    try:
        from promenade_bus_outbox import OutboxRelay
    except ImportError as error:
        raise ImproperlyConfigured(
            "the relay of the outbox needs promenade-bus-outbox: pip install 'promenade-bus-django[outbox]'; "
            "or set PROMENADE_BUS_OUTBOX = {'relay': False} where it runs in another process"
        ) from error
    found = outbox_settings()
    database = database_of(connections[found.using])
    return OutboxRelay(bus, database, relay=False, **found.relay_options), database.close


def database_of(connection: BaseDatabaseWrapper) -> DriverDatabase:
    """The database of the relay, which connects with the driver and the settings of Django's."""
    from promenade_bus_django.outbox.sql import check_vendor
    from promenade_bus_outbox import DriverDatabase

    check_vendor(connection)
    connect = _sqlite(connection) if connection.vendor == "sqlite" else _postgresql(connection)
    driver: Any = connection.Database  # type: ignore[attr-defined]  # the module of the driver
    return DriverDatabase(connection.vendor, driver, connect, shown=repr(connection.alias))


def _sqlite(connection: BaseDatabaseWrapper) -> Callable[[], Any]:
    parameters = connection.get_connection_params()
    if connection.is_in_memory_db():  # type: ignore[attr-defined]  # SQLite's has it
        raise ImproperlyConfigured(
            f"the database {connection.alias!r} is in memory, where the relay of the outbox cannot read it: "
            "use a file"
        )
    used = {
        "database": str(parameters["database"]),
        "timeout": parameters.get("timeout", 20),
        "uri": parameters.get("uri", False),
        "check_same_thread": False,  # a connection is used by one thread after the other
    }
    return partial(sqlite3.connect, **used)


def _postgresql(connection: BaseDatabaseWrapper) -> Callable[[], Any]:
    settings: Any = connection.settings_dict
    driver: Any = connection.Database  # type: ignore[attr-defined]  # the module of the driver
    own = {"context", "cursor_factory"}  # how Django reads rows
    parameters = {key: value for key, value in connection.get_connection_params().items() if key not in own}
    role = settings["OPTIONS"].get("assume_role")

    def connect() -> Any:
        made = driver.connect(**parameters)
        if role is not None:
            with made.cursor() as cursor:
                cursor.execute(f"SET ROLE {connection.ops.quote_name(role)}")
            made.commit()
        return made

    return connect


class RelayBeside:
    """The relay beside the bus of this process, if ``PROMENADE_BUS_OUTBOX`` does not leave it to another."""

    def __init__(self, bus: SyncBus) -> None:
        self._bus = bus
        self._made: tuple[OutboxRelay, Callable[[], None]] | None = None
        if "outbox" in bus.bus.parts.probes:  # which looks at the tables also where no relay runs
            self._made = outbox_of(bus)

    def start(self) -> None:
        """Starts the relay; the bus is open.

        Raises ``ImproperlyConfigured`` if tables are missing, and ``DatabaseUnreachable``.
        """
        from promenade_bus_django.outbox.conf import outbox_settings

        if not outbox_settings().relay:
            return
        self._made = self._made or outbox_of(self._bus)
        made, _ = self._made
        _start(self._bus, made)
        RELAYS.add(made.committed)

    def close(self) -> None:
        """Stops the relay, if it runs, and closes its connections."""
        made, self._made = self._made, None
        if made is None:
            return
        outbox, close_connections = made
        RELAYS.remove(outbox.committed)
        loop = self._bus.bus.loop
        if outbox.relay is not None and loop is not None:
            asyncio.run_coroutine_threadsafe(outbox.close(), loop).result(_LAST_WORDS)
        close_connections()


def _start(bus: SyncBus, made: OutboxRelay) -> None:
    from promenade_bus_outbox import MissingTables

    try:
        bus.run_on_loop("start the outbox", partial(made.start, relay=True))
    except MissingTables as error:
        raise ImproperlyConfigured(
            f"the outbox has no {', no '.join(error.missing)}: run 'manage.py migrate' on its database"
        ) from error
    except made.database.errors as error:
        raise DatabaseUnreachable(f"the database of the outbox does not answer: {error}") from error

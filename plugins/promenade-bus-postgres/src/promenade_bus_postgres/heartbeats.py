"""Heartbeats in the database, over a connection of their own: see ``bus_core.adapters.Heartbeats``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psycopg

from promenade_bus_postgres.connections import Connection, Connector, Sql, cut, is_sound
from promenade_bus_postgres.failures import Kind, PostgresFailure, failure_of
from promenade_bus_postgres.subscriptions import Owner

__all__ = ["HeartbeatTable"]

# A row of another name is somebody else's: the database was restored, and has given the number again.
_BEAT: Final = """
INSERT INTO promenade_owner (id, name, subscription, beats)
SELECT id, name, subscription, 1
FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS mine (id, name, subscription)
ORDER BY id
ON CONFLICT (id) DO UPDATE SET beats = promenade_owner.beats + 1 WHERE promenade_owner.name = excluded.name"""

_GONE: Final = """
DELETE FROM promenade_owner AS gone WHERE name = ANY(%s::text[])
AND NOT EXISTS (SELECT 1 FROM promenade_delivery AS held
    WHERE held.subscription = gone.subscription AND held.owner = gone.id)
AND NOT EXISTS (SELECT 1 FROM promenade_subscription AS turn WHERE turn.active = gone.id)"""

_ALL: Final = "SELECT name, beats FROM promenade_owner"


class HeartbeatTable:
    """Counts them in the database. ``owners`` are those of this process by their names."""

    def __init__(self, connector: Connector, sql: Sql) -> None:
        self.owners: dict[str, Owner] = {}
        self._connector = connector
        self._sql = sql
        self._connection: Connection | None = None
        self._guard = threading.Lock()
        self._closed = False

    def beat(self, owners: Sequence[str], gone: Sequence[str]) -> list[tuple[str, int]]:
        """A few statements, however much this process holds. Raises ``PostgresFailure``."""
        with self._guard:
            try:
                return self._beat(owners, gone)
            except (psycopg.Error, OSError) as error:
                self._disconnect()
                raise failure_of(str(self._connector.place), error) from error
            finally:
                if self._closed:  # meanwhile: `close` did not wait, and left this to the thread that has it
                    self._disconnect()

    def _beat(self, owners: Sequence[str], gone: Sequence[str]) -> list[tuple[str, int]]:
        if self._closed:
            raise PostgresFailure(str(self._connector.place), Kind.CLOSED)
        if self._connection is not None and not is_sound(self._connection):
            self._disconnect()
        if self._connection is None:
            self._connection = self._connector.open("heartbeats")
        connection, sql = self._connection, self._sql
        own = [self.owners[name] for name in owners if name in self.owners]
        if gone:
            connection.execute(sql(_GONE), ([*gone],))
        if own:
            rows = (
                [each.number for each in own],
                [each.name for each in own],
                [each.subscription for each in own],
            )
            connection.execute(sql(_BEAT), rows)
        return [(str(name), int(beats)) for name, beats in connection.execute(sql(_ALL)).fetchall()]

    def close(self) -> None:
        """Gives the connection back; the heartbeats have stopped, or do not return."""
        self._closed = True
        if not self._guard.acquire(timeout=0.02):
            connection = self._connection
            if connection is not None:
                cut(connection)
            return
        try:
            self._disconnect()
        finally:
            self._guard.release()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                connection.close()

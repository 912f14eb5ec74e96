"""Positions of events: the statements that give one, and that say which of them are final.

The position of an event begins with the id of its transaction. Everything below the **horizon**, the oldest
transaction that still runs, is final: no event appears there any more.
"""

from __future__ import annotations

from typing import Final

from promenade_bus_postgres.connections import Connection, Sql

__all__ = ["HELD_BY", "HORIZON", "LAST_SEQ", "NOW", "POSITION", "check_positions"]

NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
"""Seconds since 1970 by the clock of the server, the only one that all machines share."""

POSITION: Final = "(SELECT tx_offset + pg_current_xact_id()::text::bigint FROM promenade_state)"
"""The first half of the position of events that this transaction stores."""

HORIZON: Final = (
    "(SELECT tx_offset + pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM promenade_state)"
)
"""The first half of the first position that is not final."""

LAST_SEQ: Final = 2**63 - 1
"""The second half of the last position of a transaction."""

HELD_BY: Final = """
SELECT pid, name, datname, seconds FROM (
    SELECT pid, coalesce(usename, '') AS name, coalesce(datname, '') AS datname,
        extract(epoch FROM now() - xact_start)::float8 AS seconds, age(backend_xid) AS xid_age
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT NULL, gid, database, extract(epoch FROM now() - prepared)::float8, age(transaction)
    FROM pg_prepared_xacts) AS running
ORDER BY xid_age DESC LIMIT 1"""
"""The transaction that holds up new events: its process, user, database, and age in seconds.

A prepared transaction has no process, and its own name instead of a user. Nothing where the role may not see
the transactions of others.
"""

_NEXT: Final = "tx_offset + pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_USED: Final = """greatest((SELECT coalesce(max(tx), 0) FROM promenade_event),
(SELECT coalesce(max(cursor_tx), 0) FROM promenade_subscription))"""

_IS_BEHIND: Final = f"SELECT {_NEXT} <= {_USED} FROM promenade_state"
_GAP: Final = 2**32
"""More transactions than there are between a dump and its restore."""

_CATCH_UP: Final = f"""UPDATE promenade_state SET tx_offset = tx_offset + {_USED} + {_GAP} - ({_NEXT})
WHERE {_NEXT} <= {_USED}"""


def check_positions(connection: Connection, sql: Sql) -> None:
    """Makes new positions greater than all that were used, also between the dump and its restore.

    On a server that was restored from a dump the ids of transactions may be smaller than those in the tables.
    Running processes remember positions of events that are not in the dump; new events get none of them.
    """
    row = connection.execute(sql(_IS_BEHIND)).fetchone()
    if row is not None and row[0]:
        connection.execute(sql(_CATCH_UP))

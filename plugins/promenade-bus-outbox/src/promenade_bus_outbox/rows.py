"""The rows of the outbox as a relay uses them: it reads the next ones, and deletes delivered ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs
from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from bus_core import FrozenMapping, Message
from promenade_bus_outbox.tables import OutboxTables

__all__ = ["Refusal", "Row", "Rows", "as_utc"]

CHUNK: Final = 500
"""The most rows that one statement deletes."""


@attrs.frozen
class Row:
    """A waiting event. ``held``: an earlier one may still be committed."""

    position: int
    partition: int
    held: bool
    message: Message


@attrs.frozen
class Refusal:
    """An event that the bus has refused for good, and the reason."""

    position: int
    topic: str
    key: str
    event_id: str
    refused_at: datetime
    cause: str


def as_utc(moment: datetime) -> datetime:
    """A moment as it was written, because SQLite drops the zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Rows:
    """The SQL statements about events, for one dialect. ``holds_keys``: a refused event holds up its key."""

    def __init__(self, tables: OutboxTables, dialect: str, *, holds_keys: bool = False) -> None:
        events = self._events = tables.events.c
        self._table = tables.events
        self.waiting: ColumnElement[bool] = and_(events.delivered_at.is_(None), events.refused_at.is_(None))
        self.held = _held(events.transaction_id) if dialect == "postgresql" else literal(False)
        conditions = [self.waiting, events.partition.in_(bindparam("partitions", expanding=True))]
        if holds_keys:
            refused = tables.events.alias("refused")
            conditions.append(~exists().where(refused.c.refused_at.is_not(None), refused.c.key == events.key))
        self._next = (
            select(
                events.position,
                events.partition,
                self.held.label("held"),
                events.event_id,
                events.topic,
                events.key,
                events.body,
                events.headers,
            )
            .where(*conditions)
            .order_by(events.position)
            .limit(bindparam("most"))
        )
        chosen = events.position.in_(bindparam("positions", expanding=True))
        self._delete = delete(self._table).where(chosen)
        self._keep = update(self._table).where(chosen).values(delivered_at=bindparam("now"))
        self._refuse = (
            update(self._table)
            .where(events.position == bindparam("refused_position"))
            .values(refused_at=bindparam("now"), cause=bindparam("why"))
        )

    def next(self, connection: Connection, partitions: Collection[int], most: int) -> list[Row]:
        """The next rows of these partitions, in order."""
        found = connection.execute(self._next, {"partitions": [*partitions], "most": most})
        return [
            Row(
                position, partition, bool(held), Message(event_id, topic, key, bytes(body), _headers(headers))
            )
            for position, partition, held, event_id, topic, key, body, headers in found
        ]

    def delivered(self, connection: Connection, positions: Sequence[int], *, keep: bool) -> None:
        """Removes, or marks, events that the bus has accepted."""
        if not positions:
            return
        chosen: dict[str, Any] = {"positions": [*positions]}
        if keep:
            connection.execute(self._keep, {**chosen, "now": datetime.now(UTC)})
        else:
            connection.execute(self._delete, chosen)

    def refused(self, connection: Connection, causes: Mapping[int, str]) -> None:
        """Marks events that the bus has refused for good."""
        now = datetime.now(UTC)
        for position, why in causes.items():
            connection.execute(self._refuse, {"refused_position": position, "now": now, "why": why})

    def clean(self, connection: Connection, age: float) -> int:
        """Deletes a chunk of delivered events that were kept for longer than ``age`` seconds.

        Returns their number.
        """
        events = self._events
        old = (
            select(events.position)
            .where(events.delivered_at < datetime.now(UTC) - timedelta(seconds=age))
            .limit(CHUNK)
        )
        return connection.execute(delete(self._table).where(events.position.in_(old))).rowcount

    def refusals(self, connection: Connection, limit: int) -> list[Refusal]:
        """The oldest refused events."""
        events = self._events
        found = connection.execute(
            select(
                events.position, events.topic, events.key, events.event_id, events.refused_at, events.cause
            )
            .where(events.refused_at.is_not(None))
            .order_by(events.position)
            .limit(limit)
        )
        return [
            Refusal(position, topic, key, event_id, as_utc(at), cause)
            for position, topic, key, event_id, at, cause in found
        ]

    def retry(self, connection: Connection, positions: Sequence[int] | None) -> int:
        """Makes refused events wait for delivery again, all of them if none is named."""
        statement = update(self._table).where(self._chosen_refusals(positions))
        return connection.execute(statement.values(refused_at=None, cause=None)).rowcount

    def discard(self, connection: Connection, positions: Sequence[int]) -> int:
        """Deletes refused events."""
        return connection.execute(delete(self._table).where(self._chosen_refusals(positions))).rowcount

    def _chosen_refusals(self, positions: Sequence[int] | None) -> ColumnElement[bool]:
        refused = self._events.refused_at.is_not(None)
        return refused if positions is None else and_(refused, self._events.position.in_(positions))


def _held(transaction: ColumnElement[int]) -> ColumnElement[bool]:
    """Tell whether a transaction is one of this server that began after one which still runs.

    A row that can be read was committed. An id at or beyond the next one comes from another server, by a
    dump, or from before its ids were reset: nothing that runs here is older.
    """
    snapshot = func.pg_current_snapshot()
    oldest = select(cast(cast(func.pg_snapshot_xmin(snapshot), Text), BigInteger)).scalar_subquery()
    next_one = select(cast(cast(func.pg_snapshot_xmax(snapshot), Text), BigInteger)).scalar_subquery()
    return and_(transaction >= oldest, transaction < next_one)


def _headers(text: str | None) -> Mapping[str, str]:
    headers: dict[str, str] = json.loads(text) if text else {}
    return FrozenMapping(headers)

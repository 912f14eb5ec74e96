"""The rows of the outbox as a relay uses them: it reads the next ones, and deletes delivered ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from bus_core import FrozenMapping, Message
from promenade_bus_outbox.connection import NONE, OutboxConnection
from promenade_bus_outbox.dialects import Dialect, as_utc
from promenade_bus_outbox.names import TableNames

__all__ = ["Refusal", "Row", "Rows"]

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

    def to_dict(self) -> dict[str, Any]:
        """The refusal as plain data for JSON."""
        return {**attrs.asdict(self), "refused_at": self.refused_at.isoformat()}


class Rows:
    """The SQL statements about events, for one dialect. ``holds_keys``: a refused event holds up its key."""

    def __init__(self, names: TableNames, dialect: Dialect, *, holds_keys: bool = False) -> None:
        self.names = names
        self._table = table = names.events
        self._dialect = dialect
        self.waiting: Final = "delivered_at IS NULL AND refused_at IS NULL"
        self.held: Final = dialect.held("transaction_id")
        condition = f"{self.waiting} AND {dialect.among('partition', 'partitions')}"
        if holds_keys:
            condition += (
                f" AND NOT EXISTS (SELECT 1 FROM {table} AS refused"
                " WHERE refused.refused_at IS NOT NULL AND refused.key = events.key)"
            )
        self._next = (
            f"SELECT position, partition, {self.held}, event_id, topic, key, body, headers "
            f"FROM {table} AS events WHERE {condition} ORDER BY position LIMIT :most"
        )
        self._chosen = dialect.among("position", "positions")

    def next(self, connection: OutboxConnection, partitions: Collection[int], most: int) -> list[Row]:
        """The next rows of these partitions, in order."""
        found = connection.query(self._next, {"partitions": self._dialect.numbers(partitions), "most": most})
        return [
            Row(
                position, partition, bool(held), Message(event_id, topic, key, bytes(body), _headers(headers))
            )
            for position, partition, held, event_id, topic, key, body, headers in found
        ]

    def delivered(self, connection: OutboxConnection, positions: Sequence[int], *, keep: bool) -> None:
        """Removes, or marks, events that the bus has accepted."""
        if not positions:
            return
        chosen = {"positions": self._dialect.numbers(positions)}
        if keep:
            connection.execute(
                f"UPDATE {self._table} SET delivered_at = :now WHERE {self._chosen}",
                {**chosen, "now": self._moment()},
            )
        else:
            connection.execute(f"DELETE FROM {self._table} WHERE {self._chosen}", chosen)

    def refused(self, connection: OutboxConnection, causes: Mapping[int, str]) -> None:
        """Marks events that the bus has refused for good."""
        now = self._moment()
        for position, why in causes.items():
            connection.execute(
                f"UPDATE {self._table} SET refused_at = :now, cause = :why WHERE position = :position",
                {"position": position, "now": now, "why": why},
            )

    def clean(self, connection: OutboxConnection, age: float) -> int:
        """Deletes a chunk of delivered events that were kept for longer than ``age`` seconds.

        Returns their number.
        """
        return connection.execute(
            f"DELETE FROM {self._table} WHERE position IN "
            f"(SELECT position FROM {self._table} WHERE delivered_at < :before LIMIT {CHUNK})",
            {"before": self._moment(-timedelta(seconds=age))},
        )

    def refusals(self, connection: OutboxConnection, limit: int) -> list[Refusal]:
        """The oldest refused events."""
        found = connection.query(
            f"SELECT position, topic, key, event_id, refused_at, cause FROM {self._table} "
            "WHERE refused_at IS NOT NULL ORDER BY position LIMIT :most",
            {"most": limit},
        )
        return [
            Refusal(position, topic, key, event_id, as_utc(at), cause)
            for position, topic, key, event_id, at, cause in found
        ]

    def retry(self, connection: OutboxConnection, positions: Sequence[int] | None) -> int:
        """Makes refused events wait for delivery again, all of them if none is named."""
        statement = f"UPDATE {self._table} SET refused_at = NULL, cause = NULL WHERE refused_at IS NOT NULL"
        if positions is None:
            return connection.execute(statement, NONE)
        chosen = {"positions": self._dialect.numbers(positions)}
        return connection.execute(f"{statement} AND {self._chosen}", chosen)

    def discard(self, connection: OutboxConnection, positions: Sequence[int]) -> int:
        """Deletes refused events."""
        return connection.execute(
            f"DELETE FROM {self._table} WHERE refused_at IS NOT NULL AND {self._chosen}",
            {"positions": self._dialect.numbers(positions)},
        )

    def _moment(self, later: timedelta = timedelta(0)) -> object:
        """The present, or ``later``, as a parameter."""
        return self._dialect.moment(datetime.now(UTC) + later)


def _headers(text: str | None) -> Mapping[str, str]:
    headers: dict[str, str] = json.loads(text) if text else {}
    return FrozenMapping(headers)

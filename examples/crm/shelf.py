"""The memory of the contexts: tables of text keys and JSON values.

In one process tables are dictionaries. Where several processes share the work they are in a file, so that
what one of them has learned is known to the others, and outlives it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, MutableMapping
from typing import Any, Protocol
from uuid import UUID

__all__ = ["FileShelf", "MemoryShelf", "Shelf", "Table"]

Table = MutableMapping[Any, Any]
"""Keys are texts or UUIDs; values are what JSON knows."""


class Shelf(Protocol):
    """Where tables are kept."""

    def table(self, name: str) -> Table:
        """The table of that name; it is empty when nobody has put anything there."""
        ...


class MemoryShelf:
    """Tables that are gone with the process."""

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """See ``Shelf``."""
        return self._tables.setdefault(name, {})


class FileShelf:
    """Tables in an SQLite file that several processes use at once; a written value outlives its process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        # What was written is safe from the death of a process. From that of the machine it need not be.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")

    def table(self, name: str) -> Table:
        """See ``Shelf``."""
        self._connection.execute(f'CREATE TABLE IF NOT EXISTS "{name}" (key TEXT PRIMARY KEY, value TEXT)')
        return _FileTable(self._connection, name)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


class _FileTable(MutableMapping[Any, Any]):
    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = f'"{name}"'

    def __getitem__(self, key: str | UUID) -> Any:
        found = self._connection.execute(f"SELECT value FROM {self._name} WHERE key = ?", (str(key),))
        row = found.fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def __setitem__(self, key: str | UUID, value: Any) -> None:
        self._connection.execute(
            f"INSERT OR REPLACE INTO {self._name} VALUES (?, ?)", (str(key), json.dumps(value))
        )

    def __delitem__(self, key: str | UUID) -> None:
        done = self._connection.execute(f"DELETE FROM {self._name} WHERE key = ?", (str(key),))
        if not done.rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter([row[0] for row in self._connection.execute(f"SELECT key FROM {self._name}")])

    def __len__(self) -> int:
        (count,) = self._connection.execute(f"SELECT count(*) FROM {self._name}").fetchone()
        return int(count)

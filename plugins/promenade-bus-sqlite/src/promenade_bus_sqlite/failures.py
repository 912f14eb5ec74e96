"""Errors of SQLite in plain words: the fault, the file, and the remedy."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from typing import Final

from bus_core import AdapterError

__all__ = ["Kind", "SqliteFailure", "failure_of", "kind_of"]


class Kind(StrEnum):
    """The fault of a file."""

    BUSY = "busy"
    FULL = "full"
    READ_ONLY = "read-only"
    INPUT_OUTPUT = "input or output"
    CORRUPT = "corrupt"
    NOT_A_DATABASE = "no database"
    CANNOT_OPEN = "cannot be opened"
    TOO_LARGE = "too large"
    REPLACED = "replaced"
    UNFIT = "unfit"
    CLOSED = "closed"
    OTHER = "other"

    @property
    def passes(self) -> bool:
        """True when the same call may succeed later, without a new start."""
        return self in (Kind.BUSY, Kind.FULL, Kind.READ_ONLY, Kind.INPUT_OUTPUT, Kind.CANNOT_OPEN)

    @property
    def is_of_value(self) -> bool:
        """True when what was to be stored is at fault, and no state of the file would help."""
        return self is Kind.TOO_LARGE


_KINDS: Final = {
    sqlite3.SQLITE_BUSY: Kind.BUSY,
    sqlite3.SQLITE_LOCKED: Kind.BUSY,
    sqlite3.SQLITE_FULL: Kind.FULL,
    sqlite3.SQLITE_READONLY: Kind.READ_ONLY,
    sqlite3.SQLITE_PERM: Kind.READ_ONLY,
    sqlite3.SQLITE_IOERR: Kind.INPUT_OUTPUT,
    sqlite3.SQLITE_PROTOCOL: Kind.INPUT_OUTPUT,
    sqlite3.SQLITE_CORRUPT: Kind.CORRUPT,
    sqlite3.SQLITE_NOTADB: Kind.NOT_A_DATABASE,
    sqlite3.SQLITE_CANTOPEN: Kind.CANNOT_OPEN,
    sqlite3.SQLITE_TOOBIG: Kind.TOO_LARGE,
}

_WORDS: Final = {
    Kind.BUSY: "is locked: another process has been writing for longer than busy_timeout. Look for a "
    "process that keeps a transaction open or is stopped",
    Kind.FULL: "cannot grow: the disk, a quota or max_page_count is full. Free some space; the bus retries",
    Kind.READ_ONLY: "is read-only: let this user write to the file, its directory, and the files with "
    "the endings -wal and -shm beside it",
    Kind.INPUT_OUTPUT: "cannot be read or written: the system reports an I/O error. Check the disk, its "
    "quota and the limits of this process",
    Kind.CORRUPT: "is damaged. Stop its users, copy it, and recover it with the command .recover of the "
    "sqlite3 shell, or restore a backup",
    Kind.NOT_A_DATABASE: "is not an SQLite database. Change bus.sqlite.path, or move the file away",
    Kind.CANNOT_OPEN: "cannot be opened: the file, its directory, or the files with the endings -wal and "
    "-shm beside it are missing or belong to another user",
    Kind.TOO_LARGE: "refuses a value of this size. Publish a reference to it instead",
    Kind.REPLACED: "was deleted or replaced while the bus used it, so the bus stores nothing more in it. "
    "Restore the file and restart this process, or restart it to begin with a new file",
    Kind.CLOSED: "is closed",
}


class SqliteFailure(AdapterError):
    """A call on the file failed. ``is_uncertain``: its transaction may have been stored."""

    def __init__(
        self, path: str, kind: Kind, *, name: str = "", words: str = "", is_uncertain: bool = False
    ) -> None:
        self.path = path
        self.kind = kind
        self.is_uncertain = is_uncertain
        code = f" ({name})" if name else ""
        happened = words or _WORDS.get(kind, "refuses a statement")
        super().__init__(f"the SQLite file {path!r} {happened}{code}")


def kind_of(error: BaseException) -> Kind:
    """The failure behind an error of the module ``sqlite3``."""
    if isinstance(error, SqliteFailure):
        return error.kind
    if isinstance(error, OverflowError | sqlite3.DataError):
        return Kind.TOO_LARGE
    code = getattr(error, "sqlite_errorcode", None)
    return Kind.OTHER if code is None else _KINDS.get(code & 0xFF, Kind.OTHER)


def failure_of(path: str, error: BaseException, *, is_uncertain: bool = False) -> SqliteFailure:
    """The error as one of the bus. It leaves out SQLite's text, which may quote values."""
    if isinstance(error, SqliteFailure):
        error.is_uncertain = error.is_uncertain or is_uncertain
        return error
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    failure = SqliteFailure(path, kind_of(error), name=name, is_uncertain=is_uncertain)
    failure.__cause__ = error
    return failure

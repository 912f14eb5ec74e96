"""The file: its valid places, how it is opened, and whether it is still the same."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from bus_core.runtime import lease_clock
from promenade_bus_sqlite.failures import Kind, SqliteFailure, failure_of, kind_of
from promenade_bus_sqlite.schema import LAYOUT, create_tables, layout_of

__all__ = ["OLDEST", "File", "network_file_system"]

OLDEST: Final = (3, 35, 0)
"""The oldest usable version of SQLite: it has RETURNING."""

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "beegfs"}
    | {"gpfs", "davfs", "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "fuse.rclone", "fuse.gcsfuse"}
)
"""Network file systems, whose machines do not share the memory that the write-ahead log needs."""

_SHORTEST, _LONGEST = 0.0002, 0.005
"""Seconds between two tries to write while another process does."""


def network_file_system(path: str, mounts: str) -> tuple[str, str] | None:
    """The kind and mount point of the network file system of a path; None for a local one.

    ``mounts`` is the content of ``/proc/self/mounts`` on Linux.
    """
    found: tuple[str, str] = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        if (path + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(found[1]):
            found = fields[2], place
    return found if found[0] in _NETWORK else None


@attrs.define
class File:
    """One file, as this process found it. ``epoch`` turns ``lease_clock`` into seconds since 1970.

    The first process after a start of the machine notes it there for all others: no time of day decides when
    something is due, except over that start.
    """

    path: str
    synchronous: str = "normal"
    busy_timeout: float = 5.0
    epoch: float = 0.0
    _identity: tuple[int, int] = attrs.field(default=(0, 0), init=False)

    @property
    def directory(self) -> str:
        """The path of the file."""
        return str(Path(self.path).absolute().parent)

    def now(self) -> float:
        """Seconds since the epoch, by a clock that cannot be set."""
        return self.epoch + lease_clock()

    def prepare(self) -> sqlite3.Connection:
        """Checks the place, creates what is missing, and opens the file. Raises ``SqliteFailure``."""
        self._check_place()
        db = self.connect()
        try:
            self._check_layout(db)
        except BaseException as error:
            db.close()
            if isinstance(error, sqlite3.Error):
                raise failure_of(self.path, error) from error
            raise
        self._identity = self._identity_now()
        return db

    def _check_place(self) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise self._unfit(
                f"needs SQLite {'.'.join(map(str, OLDEST))} or newer, and this Python has "
                f"{sqlite3.sqlite_version}: take a newer Python"
            )
        if self.path == ":memory:" or self.path.startswith("file:"):
            raise self._unfit("must be the path of a file: for events in memory take the adapter 'memory'")
        whole = Path(self.path).absolute()
        if not whole.parent.is_dir():
            raise self._unfit(
                f"cannot be created: there is no directory {str(whole.parent)!r}; create it, or change "
                "bus.sqlite.path"
            )
        if whole.is_dir():
            raise self._unfit("is a directory: bus.sqlite.path must name a file in it")
        with suppress(OSError):
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
            found = network_file_system(str(whole.parent.resolve()), mounts)
            if found is not None:
                raise self._unfit(
                    f"is on a network file system ({found[0]} at {found[1]}), where SQLite cannot share it "
                    "between processes safely: put it on a disk of this machine, or take the adapter "
                    "'postgres' or 'redis'"
                )

    def _unfit(self, words: str) -> SqliteFailure:
        return SqliteFailure(self.path, Kind.UNFIT, words=words)

    def connect(self) -> sqlite3.Connection:
        """Opens another connection, for any thread. Raises ``SqliteFailure``."""
        try:
            db = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        except sqlite3.Error as error:
            raise failure_of(self.path, error) from error
        try:
            (mode,) = self.patiently(db, "PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self._unfit(f"cannot have a write-ahead log (journal_mode is {mode!r}) where it is")
            self.patiently(db, f"PRAGMA synchronous = {self.synchronous}")
        except BaseException as error:
            db.close()
            if isinstance(error, sqlite3.Error):
                raise failure_of(self.path, error) from error
            raise
        return db

    def patiently(self, db: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
        """Executes a statement, and waits for other writers, up to ``busy_timeout``.

        SQLite's own waiting soon sleeps for a tenth of a second, much longer than any transaction of the bus.
        """
        deadline = time.monotonic() + self.busy_timeout
        pause = _SHORTEST
        while True:
            try:
                return db.execute(statement)
            except sqlite3.OperationalError as error:
                if kind_of(error) is not Kind.BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)

    def _check_layout(self, db: sqlite3.Connection) -> None:
        self.patiently(db, "BEGIN IMMEDIATE")
        try:
            layout = layout_of(db)
            if layout is None:
                create_tables(db)
            elif layout != LAYOUT:
                raise self._unfit(
                    f"has tables of another version of the bus (layout {layout!r}, here {LAYOUT}). "
                    "Run that version until every event is handled, then begin with a new file"
                )
            self._agree_on_time(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _agree_on_time(self, db: sqlite3.Connection) -> None:
        boot = _boot_id()
        found = db.execute("SELECT value FROM promenade_meta WHERE name = 'boot'").fetchone()
        noted = None if found is None else str(found[0]).partition(" ")
        if boot and noted is not None and noted[0] == boot:
            self.epoch = float(noted[2])
            return
        self.epoch = time.time() - lease_clock()
        # A clock that was set while the machine was off must not make a retry wait longer than its delay.
        now = self.now()
        db.execute(
            "UPDATE promenade_delivery SET due = min(due, ? + delay) WHERE owner = 0 AND due > ?", (now, now)
        )
        db.execute("UPDATE promenade_mark SET at = min(at, ?)", (now,))
        db.execute("REPLACE INTO promenade_meta VALUES ('boot', ?)", (f"{boot} {self.epoch!r}",))

    def _identity_now(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def check_identity(self) -> None:
        """Raises ``SqliteFailure`` when the path leads to another file than at first, or to none."""
        try:
            is_same = self._identity_now() == self._identity
        except OSError:
            is_same = False
        if not is_same:
            raise SqliteFailure(self.path, Kind.REPLACED)


def _boot_id() -> str:
    """The id of this start of the machine; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""

"""An adapter on a SQLite file, as the documentation of 0.1 shows it."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing

import attrs

from bus_core import Factory, Features
from bus_core.adapters import DEAD, Claim, Pending, Record, StorageAdapter, matches

SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS message (topic, text);
CREATE TABLE IF NOT EXISTS subscription (id PRIMARY KEY, pattern, replay);
CREATE TABLE IF NOT EXISTS record (key INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription, text, owner DEFAULT '', due DEFAULT 0, lapsed DEFAULT 0);
CREATE INDEX IF NOT EXISTS record_due ON record (subscription, due);
CREATE TABLE IF NOT EXISTS heart (owner PRIMARY KEY, beats);
CREATE TRIGGER IF NOT EXISTS fan_out AFTER INSERT ON message BEGIN
    INSERT INTO record (subscription, text) SELECT id, new.text FROM subscription
    WHERE pattern = new.topic OR pattern GLOB '*[*#]*' AND matches(pattern, new.topic); END;
CREATE TRIGGER IF NOT EXISTS replay AFTER INSERT ON subscription WHEN new.replay BEGIN
    INSERT INTO record (subscription, text) SELECT new.id, text FROM message
    WHERE matches(new.pattern, topic) ORDER BY message.rowid; END;
"""
PENDING = """SELECT subscription, owner, count(*), min(due) FROM record WHERE owner <> ?
GROUP BY subscription, owner"""
CLAIM = """UPDATE record SET lapsed = owner <> '', owner = ? WHERE key IN (SELECT key FROM record
WHERE subscription = ? AND (owner = '' AND due <= ? OR owner IN (SELECT value FROM json_each(?)))
ORDER BY key LIMIT ?) RETURNING key, text, lapsed"""
BEAT = "INSERT INTO heart VALUES (?, 1) ON CONFLICT DO UPDATE SET beats = beats + 1"


class FrozenAdapter(StorageAdapter):
    name = "frozen"
    features = Features(durable=True, groups=True, delayed=True, replay=True)

    def __init__(self, path: str, lease: float = 30.0) -> None:
        self.path, self.lease = path, lease

    async def open(self) -> None:
        self.db = sqlite3.connect(self.path, isolation_level="IMMEDIATE")
        self.db.create_function("matches", 2, matches)
        self.db.executescript(SCHEMA)

    def transaction(self) -> sqlite3.Connection:
        return self.db

    async def shut(self) -> None:
        self.db.close()

    async def add(self, topic: str, text: str) -> None:
        self.db.execute("INSERT INTO message VALUES (?, ?)", (topic, text))

    async def subscribe(self, subscription: str, pattern: str, replay: bool) -> None:
        self.db.execute(
            "INSERT OR IGNORE INTO subscription VALUES (?, ?, ?)", (subscription, pattern, replay)
        )

    async def claim(
        self, subscription: str, owner: str, now: float, limit: int, dead: Collection[str]
    ) -> list[Claim]:
        wanted = (owner, subscription, now, json.dumps([*dead]), limit)
        return sorted(self.db.execute(CLAIM, wanted).fetchall())

    async def change(self, key: int, owner: str, record: Record | None) -> bool:
        sql = "UPDATE record SET text = ?, owner = ?, due = ?" if record else "DELETE FROM record"
        values = attrs.astuple(record) if record else ()
        return self.db.execute(sql + " WHERE key = ? AND owner = ?", (*values, key, owner)).rowcount > 0

    async def pending(self) -> list[Pending]:
        return self.db.execute(PENDING, (DEAD,)).fetchall()

    async def dead(self) -> list[tuple[int, str]]:
        return self.db.execute("SELECT key, text FROM record WHERE owner = ?", (DEAD,)).fetchall()

    def beat(self, owners: Sequence[str], gone: Sequence[str]) -> list[tuple[str, int]]:
        with closing(sqlite3.connect(self.path)) as db, db:  # this is another thread
            db.executemany("DELETE FROM heart WHERE owner = ?", [(each,) for each in gone])
            db.executemany(BEAT, [(each,) for each in owners])
            return db.execute("SELECT owner, beats FROM heart").fetchall()


@attrs.frozen(kw_only=True)
class FrozenAdapterOptions:
    path: str
    lease: float = 30.0


ADAPTER = Factory(
    options=FrozenAdapterOptions, build=lambda options, context: FrozenAdapter(options.path, options.lease)
)

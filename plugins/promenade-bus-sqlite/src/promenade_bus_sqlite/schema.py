"""The tables of the bus. The file may also contain tables of other programs.

An event is stored once for all its subscriptions. Each subscription has a **cursor**, which marks the last
event it has received. A **delivery** is an event that was received but not settled. SQLite has one writer at
a time, so event numbers become visible in order, and a cursor never skips one.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["LAYOUT", "NOBODY", "TABLES", "create_tables", "layout_of"]

LAYOUT: Final = 1
"""The number of this layout. The file contains it too."""

NOBODY: Final = 0
"""The owner of a delivery that may be claimed when it is due."""

TABLES: Final = """
CREATE TABLE promenade_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE promenade_topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE promenade_event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: cursors rely on it
    topic INTEGER NOT NULL,                 -- below zero: a redriven event, which only its delivery leads to
    id TEXT NOT NULL, key TEXT NOT NULL, headers TEXT, body BLOB NOT NULL, published REAL NOT NULL);
CREATE INDEX promenade_event_topic ON promenade_event (topic);
CREATE TABLE promenade_subscription (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    service_group TEXT NOT NULL, pattern TEXT NOT NULL, name TEXT NOT NULL,
    broadcast INTEGER NOT NULL DEFAULT 0,   -- the subscription of one instance, named by its owner
    cursor INTEGER NOT NULL,
    active INTEGER NOT NULL DEFAULT 0,      -- the owner whose turn it is, of an ordered subscription
    served REAL NOT NULL DEFAULT 0,         -- when an instance had it last
    UNIQUE (service_group, pattern));
CREATE TABLE promenade_owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    subscription INTEGER NOT NULL, beats INTEGER NOT NULL DEFAULT 0);
CREATE TABLE promenade_delivery (
    subscription INTEGER NOT NULL, seq INTEGER NOT NULL, owner INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1, redelivered INTEGER NOT NULL DEFAULT 0,
    history TEXT, waited REAL NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, delay REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (subscription, seq)) WITHOUT ROWID;
CREATE INDEX promenade_delivery_due ON promenade_delivery (subscription, due) WHERE owner = 0;
CREATE TABLE promenade_letter (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL, subscription TEXT NOT NULL, service_group TEXT NOT NULL, pattern TEXT NOT NULL,
    message_id TEXT NOT NULL, published REAL NOT NULL, text TEXT NOT NULL);
CREATE TABLE promenade_mark (at REAL NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE promenade_loss (
    service_group TEXT NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, events INTEGER NOT NULL,
    PRIMARY KEY (service_group, topic, reason)) WITHOUT ROWID;
"""


def layout_of(db: sqlite3.Connection) -> object:
    """Returns the number of the layout in a file, or None if the bus has no tables in it yet."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'promenade_meta'").fetchone() is None:
        return None
    row = db.execute("SELECT value FROM promenade_meta WHERE name = 'layout'").fetchone()
    return "none" if row is None else row[0]


def create_tables(db: sqlite3.Connection) -> None:
    """Creates the tables in the current transaction."""
    for statement in _statements(TABLES):
        db.execute(statement)
    db.execute("INSERT INTO promenade_meta VALUES ('layout', ?)", (LAYOUT,))


def _statements(script: str) -> list[str]:
    """Splits a script into statements, because a whole script would end the transaction."""
    lines = [line.partition("--")[0] for line in script.splitlines()]
    return [each for each in "\n".join(lines).split(";") if each.strip()]

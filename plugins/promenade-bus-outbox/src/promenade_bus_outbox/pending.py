"""The events of a session that wait for its commit, and the moment in which they become rows.

They are written just before the commit, after the last flush. By then, any lock that orders two transactions
has ordered them, so the rows get their positions in that order. Events of a savepoint that is rolled back, or
of a session that is closed, go with it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from bus_core import Message
from promenade_bus_outbox.database import is_missing_table, named
from promenade_bus_outbox.errors import MissingTables, WrongSession
from promenade_bus_outbox.names import partition_of
from promenade_bus_outbox.tables import OutboxTables

__all__ = ["Sink", "add_to", "listen_to_sessions", "write_late"]

_KEY: Final = "promenade_bus_outbox"


class Sink(Protocol):
    """The outbox as a session's pending events see it."""

    tables: OutboxTables

    def committed(self) -> None:
        """Handles the commit of rows. Called in the thread of the session."""
        ...


class _Item:
    """One event, and the innermost open transaction that it belongs to."""

    __slots__ = ("message", "sink", "transaction")

    def __init__(self, sink: Sink, message: Message, transaction: SessionTransaction) -> None:
        self.sink = sink
        self.message = message
        self.transaction = transaction


class _Pending:
    """The messages that one session has to write. ``written_to`` is set until its transaction ends."""

    __slots__ = ("items", "written_to")

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self.written_to: dict[Sink, None] | None = None


def add_to(session: Session, sink: Sink, message: Message) -> bool:
    """Holds a message until just before the session commits; begins a transaction if need be.

    Returns True if the rows have been written already, because something, such as a hook of the last flush,
    publishes during the commit. Call ``write_late`` in that case.
    """
    if not session.in_transaction():
        if not session.autobegin:
            raise WrongSession(
                "the session has no transaction, and begins none by itself (autobegin=False): publish "
                "between session.begin() and the commit"
            )
        session.begin()
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None:
        pending = session.info[_KEY] = _Pending()
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "it was begun"
    pending.items.append(_Item(sink, message, transaction))
    return pending.written_to is not None


def write_late(session: Session) -> None:
    """Writes events that ``add_to`` held too late for the hook of the commit."""
    pending: _Pending | None = session.info.get(_KEY)
    if pending is not None and pending.items:
        _write(session, pending)


_listening = threading.Lock()
_hooks: dict[str, Callable[..., None]] = {}


def listen_to_sessions() -> None:
    """Makes every session write its pending events, because any session may be passed."""
    with _listening:
        if not _hooks:
            _hooks.update(
                before_commit=_before_commit,
                after_commit=_after_commit,
                after_transaction_end=_after_transaction_end,
            )
            for name, hook in _hooks.items():
                event.listen(Session, name, hook)


def _before_commit(session: Session) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None or not pending.items:
        return
    nested = session.get_nested_transaction()
    if nested is not None:  # a savepoint is released: its events move to the outer transaction
        parent = nested.parent
        assert parent is not None, "a savepoint stands in a transaction"
        for item in pending.items:
            if item.transaction is nested:
                item.transaction = parent
        return
    session.flush()
    _write(session, pending)


def _write(session: Session, pending: _Pending) -> None:
    items = pending.items
    if pending.written_to is None:
        pending.written_to = {}
    now = datetime.now(UTC)
    for sink in dict.fromkeys(item.sink for item in items):
        rows = [_row(item.message, now) for item in items if item.sink is sink]
        table = sink.tables.events
        connection = session.connection(bind_arguments={"clause": table})
        try:
            connection.execute(table.insert().inline(), rows if len(rows) > 1 else rows[0])
        except DBAPIError as error:
            if is_missing_table(error):
                raise MissingTables(named(connection.engine), [f"table {table.fullname!r}"]) from error
            raise
        pending.written_to[sink] = None
    items.clear()


def _row(message: Message, now: datetime) -> dict[str, Any]:
    return {
        "partition": partition_of(message.key),
        "event_id": message.id,
        "topic": message.topic,
        "key": message.key,
        "headers": json.dumps(dict(message.headers)) if message.headers else None,
        "body": message.body,
        "written_at": now,
    }


def _after_commit(session: Session) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is not None and pending.written_to and session.get_nested_transaction() is None:
        for sink in pending.written_to:
            sink.committed()


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None:
        return
    if transaction.parent is None:
        del session.info[_KEY]  # written and committed by now, or rolled back
    elif pending.items:
        pending.items = [item for item in pending.items if item.transaction is not transaction]

"""Errors of an outbox or an inbox; each message says what to do."""

from __future__ import annotations

from collections.abc import Sequence

from bus_core import BusError

__all__ = ["MissingExtra", "MissingTables", "OutboxError", "WrongSession"]


class OutboxError(BusError):
    """The outbox or the inbox cannot do this because of its set-up, or of the call."""


class MissingExtra(OutboxError, ImportError):
    """A library is not installed that this part needs."""

    def __init__(self, part: str, library: str, extra: str) -> None:
        super().__init__(f"{part} needs {library}: pip install 'promenade-bus-outbox[{extra}]'")


class MissingTables(OutboxError):
    """The database lacks tables, or columns of them."""

    def __init__(self, database: str, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"the database {database} has no {', no '.join(missing)}: create the tables of outbox_tables() "
            "with metadata.create_all() or your migrations"
        )


class WrongSession(OutboxError, TypeError):
    """A session that the outbox or the inbox cannot use."""

"""Errors of PostgreSQL in words: what happened where, and what to do. One table has every state."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import psycopg

from bus_core import AdapterError

__all__ = ["Kind", "PostgresFailure", "failure_of", "kind_of"]


class Kind(StrEnum):
    """The fault of a server, a connection or a statement."""

    UNREACHABLE = "unreachable"
    CUT = "connection cut"
    BUSY = "too many connections"
    STARTING = "starting or stopping"
    CREDENTIALS = "credentials"
    NO_DATABASE = "no database"
    MISSING = "missing table"
    FORBIDDEN = "forbidden"
    READ_ONLY = "read-only"
    FULL = "full"
    SLOW = "timeout"
    CONFLICT = "conflict"
    TOO_LARGE = "too large"
    VALUE = "value"
    REFUSED = "refused"
    CORRUPT = "corrupt"
    POOLED = "pooled"
    UNFIT = "unfit"
    CLOSED = "closed"
    OTHER = "other"

    @property
    def passes(self) -> bool:
        """True when the same call may succeed later, without a new start."""
        return not self.is_of_value and self not in (Kind.REFUSED, Kind.UNFIT, Kind.CLOSED, Kind.OTHER)

    @property
    def is_of_value(self) -> bool:
        """True when what was to be stored is at fault, and no state of the server would help."""
        return self in (Kind.TOO_LARGE, Kind.VALUE)

    @property
    def ends_connection(self) -> bool:
        """True when another connection may lead to a server that is better."""
        return self in (Kind.UNREACHABLE, Kind.CUT, Kind.BUSY, Kind.STARTING, Kind.READ_ONLY, Kind.CORRUPT)

    @property
    def may_be_stored(self) -> bool:
        """True when nobody knows whether a statement that was sent has been carried out."""
        return self in (Kind.UNREACHABLE, Kind.CUT, Kind.STARTING, Kind.CORRUPT)


STATES: Final = {
    # whole states first, then classes; see appendix A of PostgreSQL's manual
    "0A000": Kind.CONFLICT,  # feature_not_supported: a prepared statement whose table was migrated
    "08": Kind.CUT,
    "08001": Kind.UNREACHABLE,
    "08004": Kind.CREDENTIALS,
    "08P01": Kind.CUT,
    "22": Kind.REFUSED,
    "22021": Kind.VALUE,  # character_not_in_repertoire
    "22P05": Kind.VALUE,  # untranslatable_character: the encoding of the database lacks it
    "23": Kind.REFUSED,
    "25006": Kind.READ_ONLY,  # read_only_sql_transaction: a standby, or a primary that has become one
    "25P02": Kind.CONFLICT,
    "25P03": Kind.CUT,  # idle_in_transaction_session_timeout
    "25P04": Kind.CUT,  # transaction_timeout
    "26000": Kind.POOLED,  # invalid_sql_statement_name: prepared in another session
    "28": Kind.CREDENTIALS,
    "3D000": Kind.NO_DATABASE,
    "3F000": Kind.MISSING,
    "40": Kind.CONFLICT,
    "42501": Kind.FORBIDDEN,
    "42703": Kind.MISSING,
    "42883": Kind.MISSING,
    "42P01": Kind.MISSING,
    "42P05": Kind.POOLED,  # duplicate_prepared_statement
    "53100": Kind.FULL,
    "53200": Kind.FULL,
    "53300": Kind.BUSY,
    "53": Kind.FULL,
    "54": Kind.TOO_LARGE,
    "55000": Kind.CONFLICT,
    "55P03": Kind.SLOW,  # lock_not_available: lock_timeout
    "57014": Kind.SLOW,  # query_canceled: statement_timeout
    "57": Kind.STARTING,
    "57P01": Kind.STARTING,
    "57P02": Kind.STARTING,
    "57P03": Kind.STARTING,
    "57P04": Kind.NO_DATABASE,
    "57P05": Kind.CUT,  # idle_session_timeout
    "58030": Kind.FULL,
    "58": Kind.CORRUPT,
    "P0": Kind.REFUSED,  # raised by a function, such as that of a trigger
    "XX": Kind.CORRUPT,
}
"""The kind of each SQLSTATE: of a whole one, or of a class by its first two characters."""

_WORDS: Final = {
    Kind.UNREACHABLE: "cannot be reached: check that the server runs, the address, and the firewall",
    Kind.CUT: "has cut the connection; the bus opens another one",
    Kind.BUSY: "has no connection left: lower pool_size, raise max_connections, or use PgBouncer",
    Kind.STARTING: "is starting or shutting down; the bus tries again",
    Kind.CREDENTIALS: "refuses the user or the password: check user, password and pg_hba.conf",
    Kind.NO_DATABASE: "has no database of this name: create it, or correct the name",
    Kind.MISSING: "lacks a table or a column of the bus: run `promenade-bus postgres migrate --config FILE`",
    Kind.FORBIDDEN: "denies a permission: grant it with `promenade-bus postgres migrate --grant-to ROLE`",
    Kind.READ_ONLY: "is read-only, as after a failover: the bus looks for the primary",
    Kind.FULL: "has no disk space or memory left. Free some; the bus tries again",
    Kind.SLOW: "took longer than statement_timeout. Look for locks and for an overloaded server",
    Kind.CONFLICT: "broke off a transaction because of another one; the bus tries again",
    Kind.TOO_LARGE: "refuses a value of this size. Publish a reference to it instead",
    Kind.VALUE: "refuses a text: it has a NUL character, or one that the encoding of the database lacks",
    Kind.REFUSED: "refuses a row of the bus, as a trigger or a constraint does that the bus has not made: "
    "remove it from the tables of the bus",
    Kind.CORRUPT: "reports an internal error or damaged data. Look into the log of the server",
    Kind.POOLED: "gives each statement another session, as PgBouncer does: set bus.postgres.pgbouncer: true",
    Kind.CLOSED: "is not used any more: the adapter is closed",
}


class PostgresFailure(AdapterError):
    """A call of the server failed. ``is_uncertain``: nobody knows whether its statement was carried out."""

    def __init__(
        self, place: str, kind: Kind, *, state: str = "", words: str = "", is_uncertain: bool = False
    ) -> None:
        self.place = place
        self.kind = kind
        self.state = state
        self.is_uncertain = is_uncertain
        code = f" ({state})" if state else ""
        happened = words or _WORDS.get(kind, "refuses a statement")
        super().__init__(f"PostgreSQL at {place} {happened}{code}")

    def again(self) -> PostgresFailure:
        """The same failure, for another call that was not sent."""
        failure = PostgresFailure(self.place, self.kind, state=self.state)
        failure.__cause__ = self.__cause__
        return failure


def kind_of(error: BaseException, *, is_connecting: bool = False) -> Kind:
    """The fault behind an error of psycopg."""
    if isinstance(error, PostgresFailure):
        return error.kind
    state = getattr(error, "sqlstate", None)
    if state:
        return STATES.get(state) or STATES.get(state[:2], Kind.OTHER)
    if is_connecting:
        return _kind_of_refusal(str(error))
    if isinstance(error, psycopg.DataError):
        return Kind.VALUE
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError):
        return Kind.CUT
    return Kind.OTHER


def _kind_of_refusal(text: str) -> Kind:
    """The fault of a connection that was refused: libpq gives a text only, in the server's language."""
    if "28P01" in text or "28000" in text or "authentication" in text or "pg_hba.conf" in text:
        return Kind.CREDENTIALS
    if "no password supplied" in text or "role " in text:
        return Kind.CREDENTIALS
    if "database " in text and "does not exist" in text:
        return Kind.NO_DATABASE
    if "too many" in text or "remaining connection slots" in text:
        return Kind.BUSY
    if "starting up" in text or "shutting down" in text or "not yet accepting" in text or "recovery" in text:
        return Kind.STARTING
    if "read-only" in text or "hot standby" in text:
        return Kind.READ_ONLY
    return Kind.UNREACHABLE


def failure_of(
    place: str, error: BaseException, *, is_connecting: bool = False, was_sent: bool = False
) -> PostgresFailure:
    """An error as one of the bus. What PostgreSQL says besides is not repeated: it may quote values."""
    if isinstance(error, PostgresFailure):
        return error
    kind = kind_of(error, is_connecting=is_connecting)
    state = getattr(error, "sqlstate", None) or ("" if is_connecting else type(error).__name__)
    failure = PostgresFailure(place, kind, state=state, is_uncertain=was_sent and kind.may_be_stored)
    failure.__cause__ = error
    return failure

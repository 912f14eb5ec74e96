"""Translates errors of redis-py and the server into errors of the bus, and keeps the cause.

The classes of redis-py mislead: a wrong password and a loading server are a ConnectionError, and a replica
that refuses a write is a ResponseError. The code at the beginning of the server's reply decides, or the lack
of a reply. For each kind of failure the table has three columns. "done?": a write may have happened.
"transient": the same call may succeed later. "left?": the connection is closed, because a new one may lead to
another server behind the same address.

=================  ===============================  =======  =========  =====  =============================
kind               the server's code                done?    transient  left?  what it means
=================  ===============================  =======  =========  =====  =============================
UNREACHABLE        (no connection was made)         no       yes        yes    refused, unresolved, too late
TLS                (no connection was made)         no       no         yes    the certificates do not fit
LOST               (the connection broke)           perhaps  yes        yes    reset, closed, cut
TIMED_OUT          (no answer in time)              perhaps  yes        yes    slow, frozen, half-open
PROTOCOL           (the answer cannot be read)      perhaps  no         yes    not Redis, or not in step
AUTHENTICATION     NOAUTH, WRONGPASS, ERR AUTH      no       no         yes    password or user do not fit
FORBIDDEN          NOPERM                           no       no         no     the ACL lacks something
READ_ONLY          READONLY                         no       yes        yes    a replica, or a failover
FULL               OOM                              no       yes        no     maxmemory is reached
DISK               MISCONF                          no       yes        yes    it cannot write its data
TOO_FEW_REPLICAS   NOREPLICAS                       no       yes        yes    min-replicas-to-write
LOADING            LOADING                          no       yes        yes    the server has just started
BUSY               BUSY, UNKILLABLE                 no       yes        yes    a script runs long
TOO_MANY_CLIENTS   ERR max number of clients        no       yes        yes    maxclients is reached
PRIMARY_DOWN       MASTERDOWN                       no       yes        yes    a replica without its primary
INTERRUPTED        UNBLOCKED                        no       yes        yes    a role changed during a read
CLUSTER_DOWN       CLUSTERDOWN                      no       yes        yes    slots that nobody serves
MOVED              MOVED                            no       yes        slots  another node serves the slot
ASK                ASK                              no       yes        slots  another node gets the slot
TRY_AGAIN          TRYAGAIN                         no       yes        no     the slot is being moved
CROSS_SLOT         CROSSSLOT                        no       no         no     a mistake of the adapter
NO_GROUP           NOGROUP                          no       yes        no     group or stream is gone
GROUP_EXISTS       BUSYGROUP                        no       no         no     somebody has made the group
NO_SCRIPT          NOSCRIPT                         no       yes        no     the script is forgotten
WRONG_TYPE         WRONGTYPE                        no       no         no     the key is used otherwise
UNKNOWN_COMMAND    ERR unknown command, subcommand  no       no         no     too old, or restricted
REFUSED            any other                        no       no         no     see the server's words
=================  ===============================  =======  =========  =====  =============================

``slots``: the connection is left outside a cluster only; a cluster node that does not serve one slot serves
others.

An error inside a Lua script counts as the error of the failed command, even on servers before 7.0, which hide
it in the text. Earlier effects of the script remain, so a script writes last.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Collection
from enum import StrEnum
from typing import Final

import attrs
from redis.exceptions import AskError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bus_core import AdapterError, PublishFailed, PublishUncertain
from bus_core.config import MASK, mask_text
from bus_core.runtime import printable
from promenade_bus_redis.addresses import Address

__all__ = ["Kind", "RedisFailure", "failure_of", "is_reply", "publish_error"]


class Kind(StrEnum):
    """The kind of a failure; see the table of this module."""

    UNREACHABLE = "unreachable"
    TLS = "tls"
    LOST = "lost"
    TIMED_OUT = "timed out"
    PROTOCOL = "protocol"
    AUTHENTICATION = "authentication"
    FORBIDDEN = "forbidden"
    READ_ONLY = "read only"
    FULL = "full"
    DISK = "disk"
    TOO_FEW_REPLICAS = "too few replicas"
    LOADING = "loading"
    BUSY = "busy"
    TOO_MANY_CLIENTS = "too many clients"
    PRIMARY_DOWN = "primary down"
    INTERRUPTED = "interrupted"
    CLUSTER_DOWN = "cluster down"
    MOVED = "moved"
    ASK = "ask"
    TRY_AGAIN = "try again"
    CROSS_SLOT = "cross slot"
    NO_GROUP = "no group"
    GROUP_EXISTS = "group exists"
    NO_SCRIPT = "no script"
    WRONG_TYPE = "wrong type"
    UNKNOWN_COMMAND = "unknown command"
    REFUSED = "refused"


@attrs.frozen
class _Rule:
    words: str
    transient: bool = False
    uncertain: bool = False


_RULES: Final[dict[Kind, _Rule]] = {
    Kind.UNREACHABLE: _Rule("cannot be reached", transient=True),
    Kind.TLS: _Rule("cannot be reached over TLS"),
    Kind.LOST: _Rule("closed the connection before it replied", transient=True, uncertain=True),
    Kind.TIMED_OUT: _Rule("did not reply in time", transient=True, uncertain=True),
    Kind.PROTOCOL: _Rule("sent an invalid reply; is it a Redis server?", uncertain=True),
    Kind.AUTHENTICATION: _Rule("did not accept the user and password; check 'username' and 'password'"),
    Kind.FORBIDDEN: _Rule("denies this to the user; grant the permission with ACL SETUSER"),
    Kind.READ_ONLY: _Rule("is a replica, which takes no writes; connect to the primary", transient=True),
    Kind.FULL: _Rule("has no memory left (maxmemory); add memory, or consume faster", transient=True),
    Kind.DISK: _Rule("cannot write its data to disk, and therefore takes no writes", transient=True),
    Kind.TOO_FEW_REPLICAS: _Rule("has fewer replicas than its min-replicas-to-write", transient=True),
    Kind.LOADING: _Rule("is still loading its data", transient=True),
    Kind.BUSY: _Rule("is busy with a foreign script", transient=True),
    Kind.TOO_MANY_CLIENTS: _Rule("has no room for another connection (maxclients)", transient=True),
    Kind.PRIMARY_DOWN: _Rule("is a replica that has lost its primary", transient=True),
    Kind.INTERRUPTED: _Rule("ended a blocking read, as it does when it becomes a replica", transient=True),
    Kind.CLUSTER_DOWN: _Rule("is part of a cluster with unserved slots", transient=True),
    Kind.MOVED: _Rule("no longer serves the slot", transient=True),
    Kind.ASK: _Rule("is moving the slot to another node", transient=True),
    Kind.TRY_AGAIN: _Rule("is moving the slot", transient=True),
    Kind.CROSS_SLOT: _Rule("got keys of several slots in one command"),
    Kind.NO_GROUP: _Rule("has no such consumer group, or stream", transient=True),
    Kind.GROUP_EXISTS: _Rule("already has a consumer group of that name"),
    Kind.NO_SCRIPT: _Rule("does not know the script", transient=True),
    Kind.WRONG_TYPE: _Rule("has data of another type at the key; choose another 'prefix'"),
    Kind.UNKNOWN_COMMAND: _Rule("does not know the command; use Redis 6.2 or newer, or Valkey"),
    Kind.REFUSED: _Rule("refused"),
}

_CODES: Final = {
    "NOAUTH": Kind.AUTHENTICATION,
    "WRONGPASS": Kind.AUTHENTICATION,
    "NOPERM": Kind.FORBIDDEN,
    "READONLY": Kind.READ_ONLY,
    "OOM": Kind.FULL,
    "MISCONF": Kind.DISK,
    "NOREPLICAS": Kind.TOO_FEW_REPLICAS,
    "LOADING": Kind.LOADING,
    "BUSY": Kind.BUSY,
    "UNKILLABLE": Kind.BUSY,
    "MASTERDOWN": Kind.PRIMARY_DOWN,
    "UNBLOCKED": Kind.INTERRUPTED,
    "CLUSTERDOWN": Kind.CLUSTER_DOWN,
    "MOVED": Kind.MOVED,
    "ASK": Kind.ASK,
    "TRYAGAIN": Kind.TRY_AGAIN,
    "CROSSSLOT": Kind.CROSS_SLOT,
    "NOGROUP": Kind.NO_GROUP,
    "BUSYGROUP": Kind.GROUP_EXISTS,
    "NOSCRIPT": Kind.NO_SCRIPT,
    "WRONGTYPE": Kind.WRONG_TYPE,
}

_TEXTS: Final = (
    (re.compile(r"max number of clients", re.IGNORECASE), Kind.TOO_MANY_CLIENTS),
    (re.compile(r"unknown (sub)?command", re.IGNORECASE), Kind.UNKNOWN_COMMAND),
    (re.compile(r"^AUTH |invalid (username|password)", re.IGNORECASE), Kind.AUTHENTICATION),
    (
        re.compile(r"can't (run this command|access at least one)|no permissions|ACL failure", re.IGNORECASE),
        Kind.FORBIDDEN,
    ),
)

_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]+(?= |$)")
# Before 7.0 the code of an error in a script follows its position.
_CODE_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -?([A-Z][A-Z0-9]+) ")
_FORBIDDEN_COMMAND: Final = re.compile(r"'([a-z0-9_.|-]+)' command", re.IGNORECASE)
_FORBIDDEN_KEY: Final = re.compile(r"(access|one of the) .*(key|channel)", re.IGNORECASE)
_QUOTED: Final = re.compile(r"(['\"`])(.*?)\1")
_LONGEST: Final = 200
_NO_PASSWORD_SET: Final = re.compile(r"without any password configured|no password is set", re.IGNORECASE)


_NOT_HERE_OR_NOT_NOW: Final = frozenset(
    {
        Kind.AUTHENTICATION,
        Kind.READ_ONLY,
        Kind.DISK,
        Kind.TOO_FEW_REPLICAS,
        Kind.LOADING,
        Kind.BUSY,
        Kind.TOO_MANY_CLIENTS,
        Kind.PRIMARY_DOWN,
        Kind.INTERRUPTED,
        Kind.CLUSTER_DOWN,
        Kind.MOVED,
    }
)


class Said(Exception):
    """The safe text of a server or network error: the cause of a failure.

    The original error is not kept. A server that does not know a command repeats its arguments, which may be
    a password or an event, and every traceback would print them.
    """


class RedisFailure(AdapterError):
    """A failed command. ``kind`` is the kind of failure, ``place`` the server, and ``command`` the command.

    ``is_uncertain``: a write may have happened nevertheless. ``is_transient``: the same call may succeed
    later. ``moved_to`` is the node to which a cluster redirects, and ``slot`` its slot.
    """

    def __init__(
        self,
        kind: Kind,
        place: str,
        *,
        command: str = "",
        detail: str = "",
        uncertain: bool | None = None,
        slot: int | None = None,
        moved_to: Address | None = None,
    ) -> None:
        rule = _RULES[kind]
        self.kind = kind
        self.place = place
        self.command = command
        self.detail = detail
        self.is_transient = rule.transient
        self.is_uncertain = rule.uncertain if uncertain is None else uncertain
        self.slot = slot
        self.moved_to = moved_to
        during = f" ({command})" if command else ""
        super().__init__(f"Redis at {place} {rule.words}{during}{f': {detail}' if detail else ''}")

    @property
    def ends_connection(self) -> bool:
        """True if the connection cannot be used any more."""
        return self.kind in (Kind.UNREACHABLE, Kind.TLS, Kind.LOST, Kind.TIMED_OUT, Kind.PROTOCOL)

    @property
    def is_lasting(self) -> bool:
        """True if the failure lasts until somebody changes something."""
        return not self.is_transient and not self.questions_place

    @property
    def questions_place(self) -> bool:
        """True if another server may be in charge: look it up again before the next attempt."""
        return self.ends_connection or self.kind in _NOT_HERE_OR_NOT_NOW

    def leaves_connection(self, *, is_node: bool) -> bool:
        """Returns True if the next attempt needs a new connection, which may lead to another server.

        ``is_node``: the server is known to be a cluster node, which serves only some slots.
        """
        is_about_slots = self.kind in (Kind.MOVED, Kind.ASK)
        return not is_node if is_about_slots else self.questions_place


def is_reply(error: BaseException) -> bool:
    """Returns True if the error is a reply of the server; the connection is then still in sync."""
    return isinstance(error, ResponseError) or getattr(error, "status_code", None) is not None


def failure_of(
    error: Exception, place: object, *, command: str = "", sent: bool = True, hidden: Collection[str] = ()
) -> RedisFailure:
    """Returns the failure for an error of redis-py or of the network, with its cause.

    ``place`` is the server's name for people. ``command`` is only the name, because arguments may be personal
    data. ``sent`` is true if the command was sent before the connection failed; otherwise it had no effect.
    ``hidden`` are texts that must not be shown.
    """
    if isinstance(error, RedisFailure):
        return error
    failure = _failure_of(error, str(place), command, sent, hidden)
    failure.__cause__ = Said(f"{type(error).__name__}: {_shown(str(error), command, hidden)}")
    if sent:  # the frames of a handshake contain the password
        failure.__cause__ = failure.__cause__.with_traceback(error.__traceback__)
    return failure


def _failure_of(
    error: Exception, place: str, command: str, sent: bool, hidden: Collection[str]
) -> RedisFailure:
    if is_reply(error):
        return _of_reply(error, place, command, hidden)
    if isinstance(error, InvalidResponse):
        return RedisFailure(Kind.PROTOCOL, place, command=command, uncertain=sent)
    if isinstance(error, RedisError | OSError | EOFError | asyncio.IncompleteReadError):
        if sent:
            timed_out = isinstance(error, TimeoutError | RedisTimeoutError)
            return RedisFailure(Kind.TIMED_OUT if timed_out else Kind.LOST, place, command=command)
        return _of_connecting(error, place)
    # redis-py refuses to send it, for example a value that is not text.
    return RedisFailure(Kind.REFUSED, place, command=command, detail=type(error).__name__)


def _shown(text: str, command: str, hidden: Collection[str]) -> str:
    """Returns the server's text without repeated arguments, on one line and truncated."""

    def replace(quoted: re.Match[str]) -> str:
        return quoted[0] if quoted[2].upper() == command else f"{quoted[1]}{MASK}{quoted[1]}"

    for secret in filter(None, hidden):
        text = text.replace(secret, MASK)
    text = _QUOTED.sub(replace, text.partition(", with args")[0])
    return printable(mask_text(text[:_LONGEST]))


def publish_error(failure: RedisFailure) -> PublishFailed | PublishUncertain:
    """Returns the error for the publisher of an event."""
    if failure.is_uncertain:
        return PublishUncertain(f"{failure}; the event may be stored")
    text = f"{failure}; the event is not stored"
    return PublishFailed(text, transient=failure.is_transient, permanent=False)


def _of_reply(error: BaseException, place: str, command: str, hidden: Collection[str]) -> RedisFailure:
    text = str(error)
    code = str(getattr(error, "status_code", None) or "")
    if not code and (found := _CODE.match(text)):
        code, text = found[0], text[found.end() + 1 :]
    if within := _CODE_IN_SCRIPT.search(text):
        code = within[1]
    kind = _CODES.get(code) or next((kind for words, kind in _TEXTS if words.search(text)), Kind.REFUSED)
    slot = moved_to = None
    if isinstance(error, AskError):
        slot = error.slot_id
        moved_to = Address(error.host, error.port)
    return RedisFailure(
        kind,
        place,
        command=command,
        detail=_detail(kind, code, text, command, hidden),
        slot=slot,
        moved_to=moved_to,
    )


def _detail(kind: Kind, code: str, text: str, command: str, hidden: Collection[str]) -> str:
    """Returns safe details from the server's text, which may repeat arguments."""
    if kind is Kind.FORBIDDEN:
        if found := _FORBIDDEN_COMMAND.search(text):
            return f"the command {found[1].upper()}"
        return "the keys or channels" if _FORBIDDEN_KEY.search(text) else ""
    if kind is Kind.AUTHENTICATION:
        if _NO_PASSWORD_SET.search(text):
            return "it has no password, but one is configured"
        return "it requires a password, but none is configured" if code == "NOAUTH" else ""
    if kind is Kind.REFUSED:
        return f"{code} {_shown(text, command, hidden)}".strip()
    return ""


def _of_connecting(error: Exception, place: str) -> RedisFailure:
    """Returns the cause of a failed connection; redis-py wraps it and does not always name it."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for found in causes:
        if isinstance(found, ssl.SSLCertVerificationError):
            return RedisFailure(Kind.TLS, place, detail=f"certificate: {found.verify_message}")
        if isinstance(found, ssl.SSLError):
            return RedisFailure(Kind.TLS, place, detail=found.reason or "the handshake failed")
    reasons = (
        (ConnectionRefusedError, "connection refused"),
        (socket.gaierror, "the host name cannot be resolved"),
        (FileNotFoundError, "the socket does not exist"),
        (PermissionError, "permission denied"),
        (TimeoutError, "no reply within connect_timeout"),
        (RedisTimeoutError, "no reply within connect_timeout"),
    )
    for found in causes:
        for kind, reason in reasons:
            if isinstance(found, kind):
                return RedisFailure(Kind.UNREACHABLE, place, detail=reason)
    system = next((item.strerror for item in causes if isinstance(item, OSError) and item.strerror), None)
    return RedisFailure(Kind.UNREACHABLE, place, detail=system or "the connection was closed")

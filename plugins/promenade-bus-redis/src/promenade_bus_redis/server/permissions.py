"""The commands of the adapter, a trial call without effect for each, and the ACL that allows them.

The check tries each command instead of looking it up. The reply shows that the server knows the command, and
that the user may send it, on every version and without permission for COMMAND or ACL. Any other reply is
fine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal

import attrs

__all__ = ["Permission", "acl_rules", "permissions_for"]

Word = str | int


@attrs.frozen
class Permission:
    """A command by its ACL name, and a trial call that changes nothing.

    ``{key}`` and ``{channel}`` are replaced by an unused key and channel of the bus, and ``{channels}`` by
    the pattern of all its channels. ``is_newer`` marks a command that older servers do not have.
    ``is_needed`` marks a command that the user must be allowed to send if the server has it.
    """

    name: str
    attempt: tuple[Word, ...]
    is_newer: bool = False
    is_needed: bool = True

    @property
    def is_about_channels(self) -> bool:
        """True if the command takes a channel or a pattern of channels."""
        return "{channel}" in self.attempt or "{channels}" in self.attempt

    def fill(self, key: str, channel: str, channels: str) -> list[Word]:
        """Returns the trial call for a key, a channel, and a pattern of channels."""
        places = {"{key}": key, "{channel}": channel, "{channels}": channels}
        return [places.get(word, word) if isinstance(word, str) else word for word in self.attempt]


def _of(name: str, *words: Word, newer: bool = False, needed: bool = True) -> Permission:
    return Permission(name, (*name.upper().split("|"), *words), newer, needed)


_COMMON: Final = (
    _of("ping"),
    _of("info", "server"),
)

_SCRIPTS_AND_KEYS: Final = (
    _of("script|load", "return 1"),
    # The digest of that script.
    _of("evalsha", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 0),
    _of("set", "{key}", "", "XX"),
    _of("get", "{key}"),
    _of("del", "{key}"),
    _of("pexpire", "{key}", 1),
    _of("persist", "{key}"),
)

_STREAMS: Final = (
    _of("xadd", "{key}", "NOMKSTREAM", "*", "a", ""),
    _of("xread", "COUNT", 1, "STREAMS", "{key}", "$"),
    _of("xreadgroup", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "{key}", ">"),
    _of("xack", "{key}", "g", "0-1"),
    _of("xclaim", "{key}", "g", "c", 0, "0-1"),
    _of("xpending", "{key}", "g"),
    _of("xgroup|create", "{key}", "g", "0"),
    _of("xgroup|destroy", "{key}", "g"),
    _of("xgroup|delconsumer", "{key}", "g", "c"),
    _of("xgroup|setid", "{key}", "g", "0"),
    _of("xinfo|stream", "{key}"),
    _of("xinfo|groups", "{key}"),
    _of("xinfo|consumers", "{key}", "g"),
    _of("xrange", "{key}", "-", "+", "COUNT", 1),
    _of("xrevrange", "{key}", "+", "-", "COUNT", 1),
    _of("xlen", "{key}"),
    _of("xtrim", "{key}", "MINID", "0-1"),
    _of("xdel", "{key}", "0-1"),
    _of("zadd", "{key}", "XX", 0, "a"),
    _of("zrem", "{key}", "a"),
    _of("zcard", "{key}"),
    _of("zscore", "{key}", "a"),
    _of("zrangebyscore", "{key}", 0, 0),
    _of("zrevrange", "{key}", 0, 0),
    _of("hset", "{key}", "a", ""),  # creates the key, which the next commands remove
    _of("hincrby", "{key}", "a", 1),
    _of("hdel", "{key}", "a"),
    _of("hget", "{key}", "a"),
    _of("hmget", "{key}", "a"),
    _of("hgetall", "{key}"),
    _of("exists", "{key}"),
    _of("scard", "{key}"),
    _of("sscan", "{key}", 0),
    _of("smismember", "{key}", "a"),
    _of("sadd", "{key}", "a"),
    _of("time"),
    _of("xackdel", "{key}", "g", "KEEPREF", "IDS", 1, "0-1", newer=True, needed=False),
    _of("xdelex", "{key}", "KEEPREF", "IDS", 1, "0-1", newer=True, needed=False),
)

_CONVENIENCES: Final = ("client|setname", "client|id", "client|unblock")
"""Optional: connection names, and an early end of blocking reads; without it the adapter polls more often."""

_PUBSUB: Final = (
    _of("publish", "{channel}", ""),
    _of("subscribe", "{channel}"),
    _of("unsubscribe", "{channel}"),
    # Adjacent, because a message published in between would look like their reply.
    _of("psubscribe", "{channels}"),
    _of("punsubscribe", "{channels}"),
)

_WAITING: Final = {
    "server": (),
    "fsync": (_of("waitaof", 0, 0, 1, newer=True),),
    "replicated": (_of("wait", 0, 1),),
}


def permissions_for(
    mode: Literal["streams", "pubsub"], durability: Literal["server", "fsync", "replicated"] = "server"
) -> tuple[Permission, ...]:
    """Returns the permissions of a mode. Subscribing comes last, because no other command may follow it."""
    if mode == "pubsub":
        return (*_COMMON, *_PUBSUB)
    return (*_STREAMS, *_WAITING[durability], *_COMMON, *_SCRIPTS_AND_KEYS)


def acl_rules(
    permissions: Sequence[Permission],
    *,
    prefix: str,
    kind: str = "standalone",
    db: int = 0,
    unknown: Collection[str] = (),
) -> str:
    """Returns the smallest sufficient rules, in the form of ACL SETUSER.

    ``unknown`` has the commands that the server does not have; it would refuse rules for them.
    """
    more = {"sentinel": ["role"], "cluster": ["asking", "cluster|slots"]}.get(kind, [])
    names = [
        *(item.name for item in permissions if item.is_needed and item.name not in unknown),
        *more,
        *_CONVENIENCES,
    ]
    if db:
        names.append("select")
    channels = [f"&{prefix}:*"] if any(item.is_about_channels for item in permissions) else []
    # Before 7.0 a new user may use every channel, and the server accepts no further pattern.
    return " ".join([f"~{prefix}:*", "resetchannels", *channels, "-@all", *(f"+{name}" for name in names)])

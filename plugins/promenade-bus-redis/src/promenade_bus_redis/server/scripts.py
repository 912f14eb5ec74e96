"""The Lua scripts, each in its own file, which begins with its description.

Scripts are used where several steps must be atomic: check an owner, write, and remove only if the write
succeeded. A script uses only the keys that it is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import attrs

__all__ = [
    "ACK",
    "ACTIVATE",
    "AHEAD",
    "ALIVE",
    "BACKLOG",
    "BEGIN",
    "CLAIM",
    "COUNT",
    "DECLARE",
    "DONE",
    "DUE",
    "ENTER",
    "EXPIRE",
    "FORGET",
    "FORGET_LOST",
    "GAP",
    "GOODBYE",
    "LEAVE",
    "LETTERS",
    "MAKE",
    "MOVE",
    "NOBODY",
    "NOTE",
    "NOTICE",
    "OPEN",
    "OWNED",
    "PICK",
    "RAISE",
    "READ",
    "REDATE",
    "REDRIVE",
    "RELEASE",
    "REMOVE",
    "REPLAY",
    "STORE_CLAIM",
    "STORE_RELEASE",
    "STORE_TAKE",
    "SURVEY",
    "TAIL",
    "TALLY",
    "TRIM",
    "UNREAD",
    "UPTO",
    "WHOSE",
    "WITHDRAW",
    "Script",
    "source_of",
]


@attrs.frozen
class Script:
    """A Lua script and its digest."""

    name: str
    source: str = attrs.field(repr=False)
    digest: str

    def command(self, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Returns the command that runs the script on a server that knows it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


_known: Final[dict[str, str]] = {}


def _load(name: str, *preludes: str) -> Script:
    directory = files("promenade_bus_redis").joinpath("lua")
    parts = [directory.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (*preludes, name)]
    source = "".join(parts)
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    _known[digest] = source
    return Script(name, source, digest)


def source_of(digest: str) -> str:
    """Returns the source of a script, for a server that does not know it."""
    return _known[digest]


NOBODY: Final = "~"
"""The owner of entries that were released in place."""

ACK: Final = _load("ack", "ids", "account")
ACTIVATE: Final = _load("activate", "full")
AHEAD: Final = _load("ahead", "ids", "counting")
ALIVE: Final = _load("alive", "full")
BACKLOG: Final = _load("backlog", "ids", "counting")
BEGIN: Final = _load("begin", "full")
FORGET_LOST: Final = _load("forget_lost", "full", "ids", "account")
CLAIM: Final = _load("claim", "full", "ids", "account", "fence")
COUNT: Final = _load("count", "full")
DECLARE: Final = _load("declare", "full")
DONE: Final = _load("done")
DUE: Final = _load("due", "full")
ENTER: Final = _load("enter", "full")
EXPIRE: Final = _load("expire", "ids", "keep")
FORGET: Final = _load("forget", "full", "ids")
GAP: Final = _load("gap", "full", "ids", "account")
GOODBYE: Final = _load("goodbye", "full")
LEAVE: Final = _load("leave", "full", "ids", "account")
LETTERS: Final = _load("letters", "selected")
MAKE: Final = _load("make", "full")
MOVE: Final = _load("move", "ids", "account")
NOTE: Final = _load("note", "full", "ids", "account")
NOTICE: Final = _load("notice", "full")
OPEN: Final = _load("open", "full", "ids", "account")
OWNED: Final = _load("owned")
PICK: Final = _load("pick")
RAISE: Final = _load("raise", "full")
READ: Final = _load("read", "full", "ids", "fence")
REDATE: Final = _load("redate", "full")
REDRIVE: Final = _load("redrive", "full")
RELEASE: Final = _load("release")
REMOVE: Final = _load("remove", "full")
REPLAY: Final = _load("replay", "ids")
STORE_CLAIM: Final = _load("store_claim")
STORE_RELEASE: Final = _load("store_release")
STORE_TAKE: Final = _load("store_take")
SURVEY: Final = _load("survey", "ids")
TAIL: Final = _load("tail", "ids")
TALLY: Final = _load("tally", "selected")
TRIM: Final = _load("trim", "full", "ids", "account", "keep", "fence")
UNREAD: Final = _load("unread")
UPTO: Final = _load("upto", "ids")
WHOSE: Final = _load("whose")
WITHDRAW: Final = _load("withdraw", "full")

"""The names of instances and of their consumers.

An instance is a bus in a process: ``host-4711-9f3a2c1b.30000``, or ``web.9f3a2c1b.30000`` if the option
``consumer`` is ``web``. The name ends with the lease in milliseconds, so that others know how long to wait
for a heartbeat. Each consumer adds a number: ``host-4711-9f3a2c1b.30000#1``.

A name gives no ownership, not even of the entries of an earlier instance with the same configured name.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import Final

__all__ = [
    "ORDERED",
    "instance_of",
    "is_ordered",
    "lease_of",
    "name_consumer",
    "name_instance",
    "next_owner_of",
    "raw",
    "text",
]

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._:-]+")
_LEASE: Final = re.compile(r"\.([0-9]{1,12})$")

ORDERED: Final = "o"
"""The suffix of consumers of ordered groups."""

_LEFT: Final = "left:"


def name_instance(configured: str | None, lease: float) -> str:
    """Returns a unique instance name."""
    chance = secrets.token_hex(4)
    own = f"{configured}.{chance}" if configured else f"{socket.gethostname()}-{os.getpid()}-{chance}"
    return f"{own if configured else _NOT_IN_NAMES.sub('-', own)}.{max(1, round(lease * 1000))}"


def name_consumer(instance: str, number: int, *, ordered: bool = False) -> str:
    """Returns the name of a consumer in its group."""
    return f"{instance}#{number}{ORDERED if ordered else ''}"


def instance_of(consumer: str) -> str:
    """Returns the instance whose heartbeat keeps a consumer alive."""
    return consumer.rpartition("#")[0] or consumer


def is_ordered(consumer: str) -> bool:
    """Returns True for a consumer of an ordered group."""
    return "#" in consumer and consumer.endswith(ORDERED)


def lease_of(instance: str, otherwise: float) -> float:
    """Returns the seconds without a heartbeat after which an instance is dead."""
    found = _LEASE.search(instance)
    return int(found[1]) / 1000 if found else otherwise


def text(name: bytes) -> str:
    """Decodes a name from the server; ``raw`` is the inverse for any bytes."""
    return name.decode(errors="surrogateescape")


def raw(name: str) -> bytes:
    """Encodes a name for the server."""
    return name.encode(errors="surrogateescape")


def next_owner_of(consumer: str) -> str:
    """Returns the owner of entries that a consumer leaves while its instance lives: nobody, after a lease."""
    return consumer if consumer.startswith(_LEFT) else f"{_LEFT}{consumer}"

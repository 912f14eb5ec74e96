"""The names of instances, and of their consumers: who is asked for a heartbeat, and for how long.

An instance is a bus of a process: ``host-4711-9f3a2c1b.30000``, or ``web.9f3a2c1b.30000`` where the option
``consumer`` is ``web``. Its name ends with its lease in milliseconds, so that everybody knows for how long to
wait for its heartbeat. Each of its consumers adds a number: ``host-4711-9f3a2c1b.30000#1``.

A name gives no rights, not even over what an earlier instance of the same configured name has left.
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
"""Ends the names of consumers of ordered groups."""

_LEFT: Final = "left:"


def name_instance(configured: str | None, lease: float) -> str:
    """A name that no other instance has, or had."""
    chance = secrets.token_hex(4)
    own = f"{configured}.{chance}" if configured else f"{socket.gethostname()}-{os.getpid()}-{chance}"
    return f"{own if configured else _NOT_IN_NAMES.sub('-', own)}.{max(1, round(lease * 1000))}"


def name_consumer(instance: str, number: int, *, ordered: bool = False) -> str:
    """The name of one consumer in its group."""
    return f"{instance}#{number}{ORDERED if ordered else ''}"


def instance_of(consumer: str) -> str:
    """The instance whose heartbeat says that a consumer lives."""
    return consumer.rpartition("#")[0] or consumer


def is_ordered(consumer: str) -> bool:
    """Whether a consumer is, or was, one of an ordered group."""
    return "#" in consumer and consumer.endswith(ORDERED)


def lease_of(instance: str, otherwise: float) -> float:
    """For how many seconds without a heartbeat an instance may be alive."""
    found = _LEASE.search(instance)
    return int(found[1]) / 1000 if found else otherwise


def text(name: bytes) -> str:
    """A name as the server has it; ``raw`` gives it back, whatever somebody else has put there."""
    return name.decode(errors="surrogateescape")


def raw(name: str) -> bytes:
    """A name as the server takes it."""
    return name.encode(errors="surrogateescape")


def next_owner_of(consumer: str) -> str:
    """Whom that belongs to which a consumer leaves when its instance lives on: nobody, after a lease."""
    return consumer if consumer.startswith(_LEFT) else f"{_LEFT}{consumer}"

"""Whose turn it is, where only one instance may read: locks with a lease, and tokens that only grow.

A lock can be lost without its owner knowing, for as long as a process is stopped. Therefore each read of an
ordered group shows its token, and a server that has seen a greater one refuses it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from bus_core import AdapterError
from bus_core.runtime import lease_clock
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.scripts import ACTIVATE, STAY
from promenade_bus_redis.streams.leases import Lock

if TYPE_CHECKING:
    from promenade_bus_redis.streams.services import Services

__all__ = ["Turn", "fenced_by"]

_FENCED: Final = re.compile(rb"fenced (\d+)")


class Turn:
    """May be taken by one instance at a time, for each key of the server that stands for it.

    ``is_ordered``: what is read has to show ``token``, that of the first key.
    """

    def __init__(self, services: Services, key: str | None) -> None:
        self.is_ordered = key is not None
        self.number = 0  # grows whenever it becomes this instance's turn
        self._services = services
        self._own = None if key is None else Lock(key)

    @property
    def token(self) -> str:
        """What shows that it is this instance's turn; empty where it does not matter, or is another's."""
        return "" if self._own is None else self._own.token

    @property
    def _locks(self) -> list[Lock]:
        return [lock for lock in (self._services.name_lock, self._own) if lock is not None]

    @property
    def is_taken(self) -> bool:
        """Whether it was this instance's turn when somebody last looked, and still is by the clock."""
        now = lease_clock()
        return all(lock.token and lock.until > now for lock in self._locks)

    async def take(self) -> bool:
        """Tries to make it this instance's turn.

        Raises ``RedisFailure``, and ``AdapterError`` when another instance has the configured name.
        """
        leases = self._services.leases
        for lock in self._locks:
            since = lease_clock()
            if lock.token and lock.until > since:
                continue
            if lock.token:
                # One that was active by another key had a greater token: this one needs a new one.
                is_old = int(lock.token) <= lock.greatest_seen
                lease = 0 if is_old else leases.milliseconds
                kept = await self._services.pipe.run(STAY, [lock.key], lock.token, lease)
                if kept == 1 and not is_old:
                    lock.until = leases.until(since)
                    continue
                lock.token = ""
            token = await self._services.pipe.run(
                ACTIVATE, [lock.key], leases.milliseconds, lock.greatest_seen
            )
            if not token and lock is self._services.name_lock:
                raise AdapterError(
                    f"another instance has the consumer name {self._services.options.consumer!r}, or had it "
                    "until its lease ends; give each instance a name of its own, or leave out "
                    "'bus.redis.consumer'"
                )
            if not token:
                return False
            lock.token = token.decode()
            lock.until = leases.until(since)
            leases.locks[lock] = None
            self.number += 1
        return True

    def lost_to(self, token: int) -> None:
        """Another instance was active since."""
        if self._own is not None:
            self._own.greatest_seen = max(self._own.greatest_seen, token)
            self._own.until = 0.0

    async def give_back(self) -> None:
        """Lets another instance take it at once."""
        lock = self._own
        if lock is None:
            return
        self._services.leases.locks.pop(lock, None)
        token, lock.token = lock.token, ""
        if token:
            try:
                await self._services.pipe.run(STAY, [lock.key], token, 0)
            except RedisFailure:
                pass  # it ends by itself


def fenced_by(reply: object) -> int | None:
    """The token of the instance that was active since, if a script refused because of it."""
    if isinstance(reply, bytes) and (found := _FENCED.fullmatch(reply)):
        return int(found[1])
    return None

"""Locks for work that only one instance may do, with tokens that only increase.

An instance has a lock until it releases it, or another instance finds that it is dead. A paused process may
count as dead without knowing. Therefore each read of an ordered group sends its token, and a server that has
seen a greater token refuses it.
"""

from __future__ import annotations

import re
from typing import Final

from bus_core import AdapterError
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.scripts import ACTIVATE, RELEASE
from promenade_bus_redis.streams.leases import NO_SESSION
from promenade_bus_redis.streams.names import instance_of, raw, text
from promenade_bus_redis.streams.services import LockState, Services

__all__ = ["ActiveLock", "fenced_by"]

_FENCED: Final = re.compile(rb"fenced (\d+)")


class ActiveLock:
    """A lock with one ``holder`` at a time, on each of its keys.

    ``key`` is None if only the configured name of the instance is locked.
    """

    def __init__(self, services: Services, key: str | None, holder: str) -> None:
        self.is_ordered = key is not None
        self.number = 0  # increases whenever this holder takes the lock
        self._services = services
        self._own = None if key is None else LockState(key, holder)

    @property
    def token(self) -> str:
        """The token of this holder's lock; empty if no token is needed or another holder has the lock."""
        own = self._own
        return "" if own is None or not own.token else f"{own.token} {own.holder}"

    @property
    def _locks(self) -> list[LockState]:
        return [lock for lock in (self._services.name_lock, self._own) if lock is not None]

    @property
    def is_taken(self) -> bool:
        """True if this holder had the lock at the last check, and nobody can have taken it since."""
        return all(map(self._is_sure, self._locks))

    def _is_sure(self, lock: LockState) -> bool:
        return lock.token > lock.greatest_seen and self._services.leases.is_sure(lock.session)

    async def take(self) -> bool:
        """Tries to take the lock; returns True on success.

        Raises ``RedisFailure``, and ``AdapterError`` when another instance has the configured name.
        """
        for lock in self._locks:
            if self._is_sure(lock) or await self._take(lock):
                continue
            if lock is self._services.name_lock:
                raise AdapterError(
                    f"another instance has the consumer name {self._services.options.consumer!r}, or had it "
                    "until its lease ends; give each instance its own name, or remove "
                    "'bus.redis.consumer'"
                )
            return False
        return True

    async def _take(self, lock: LockState) -> bool:
        leases, pipe = self._services.leases, self._services.pipe
        # Others see the heartbeat before they see the holder of the lock.
        session = leases.session or await leases.renew(pipe)
        dead = b""
        while True:
            arguments = [lock.holder, dead, lock.greatest_seen]
            token, other = await pipe.run(ACTIVATE, [lock.key], *arguments)
            if token:
                if lock is self._own and int(token) != lock.token:
                    self.number += 1
                lock.token, lock.session = int(token), session
                return True
            lock.token, lock.session = 0, NO_SESSION
            instance = instance_of(text(other))
            if other == dead or instance not in (await leases.judge(pipe, [instance]))[0]:
                return False
            dead = raw(text(other))

    def lost_to(self, token: int) -> None:
        """Records that another instance was active, or showed a greater token."""
        if self._own is not None:
            self._own.greatest_seen = max(self._own.greatest_seen, token)

    async def give_back(self) -> None:
        """Releases the lock, so that another instance can take it at once."""
        lock = self._own
        if lock is not None and lock.token:
            lock.token = 0
            try:
                await self._services.pipe.run(RELEASE, [lock.key], lock.holder)
            except RedisFailure:
                pass  # others will detect that this instance is dead


def fenced_by(reply: object) -> int | None:
    """Returns the token of another active instance if a script refused because of it."""
    if isinstance(reply, bytes) and (found := _FENCED.fullmatch(reply)):
        return int(found[1])
    return None

"""Whose turn it is, where only one instance may act: locks that the dead lose, and tokens that only grow.

An instance has a lock until it gives it back, or another one sees that it is dead. It may be taken for dead
without knowing, for as long as its process is stopped. Therefore each read of an ordered group shows its
token, and a server that has seen a greater one refuses it.
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
    """May be taken by one ``holder`` at a time, for each key of the server that stands for it.

    ``key`` is None where nobody waits for a turn, but for that of the configured name of the instance.
    """

    def __init__(self, services: Services, key: str | None, holder: str) -> None:
        self.is_ordered = key is not None
        self.number = 0  # grows whenever it becomes this holder's turn
        self._services = services
        self._own = None if key is None else LockState(key, holder)

    @property
    def token(self) -> str:
        """What shows that it is this holder's turn; empty where it does not matter, or is another's."""
        own = self._own
        return "" if own is None or not own.token else f"{own.token} {own.holder}"

    @property
    def _locks(self) -> list[LockState]:
        return [lock for lock in (self._services.name_lock, self._own) if lock is not None]

    @property
    def is_taken(self) -> bool:
        """Whether it was this holder's turn when somebody last looked, and nobody can have taken it since."""
        return all(map(self._is_sure, self._locks))

    def _is_sure(self, lock: LockState) -> bool:
        return lock.token > lock.greatest_seen and self._services.leases.is_sure(lock.session)

    async def take(self) -> bool:
        """Tries to make it this holder's turn.

        Raises ``RedisFailure``, and ``AdapterError`` when another instance has the configured name.
        """
        for lock in self._locks:
            if self._is_sure(lock) or await self._take(lock):
                continue
            if lock is self._services.name_lock:
                raise AdapterError(
                    f"another instance has the consumer name {self._services.options.consumer!r}, or had it "
                    "until its lease ends; give each instance a name of its own, or leave out "
                    "'bus.redis.consumer'"
                )
            return False
        return True

    async def _take(self, lock: LockState) -> bool:
        leases, pipe = self._services.leases, self._services.pipe
        # Others see the heartbeat before they see who has the lock.
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
        """Another instance was active since, or showed a token that this one's must be greater than."""
        if self._own is not None:
            self._own.greatest_seen = max(self._own.greatest_seen, token)

    async def give_back(self) -> None:
        """Lets another instance take it at once."""
        lock = self._own
        if lock is not None and lock.token:
            lock.token = 0
            try:
                await self._services.pipe.run(RELEASE, [lock.key], lock.holder)
            except RedisFailure:
                pass  # others find out that this instance is dead


def fenced_by(reply: object) -> int | None:
    """The token of the instance that was active since, if a script refused because of it."""
    if isinstance(reply, bytes) and (found := _FENCED.fullmatch(reply)):
        return int(found[1])
    return None

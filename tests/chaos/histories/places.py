"""Where a history takes place: a server of its own with a proxy before it, or memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from chaos.histories.looking import Due, Kept, look
from chaos.histories.player import Part
from chaos.histories.steps import History
from chaos.histories.troupe import LocalTroupe, ProcessTroupe, Troupe
from promenade_bus_memory import MemoryHub
from promenade_bus_redis.streams.keys import Keys
from redis_support.binaries import ServerBinary
from redis_support.clocks import SteppingClock, can_step
from redis_support.proxy import FaultProxy
from redis_support.servers import Replica, Server, Setting

__all__ = ["PREFIX", "Memory", "OnServer", "Place"]

PREFIX = "bus"


class Place(Protocol):
    """Where players meet."""

    troupe: Troupe

    async def open(self) -> None:
        """Begins."""
        ...

    async def close(self) -> None:
        """Ends everything."""
        ...

    def part(self, label: str, service: str, *, lease: float = 1.0, version: int = 1) -> Part:
        """A part in the history, which is not played yet; its lease is so many times that of the history."""
        ...

    async def kept(self, groups: frozenset[str]) -> Kept:
        """The data that is kept there."""
        ...


def _config(history: History, service: str, adapter: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "app": {"name": service},
        "bus": {
            "worker_pool_size": 32,
            "shutdown_timeout": 3.0,
            "publish_timeout": 4.0,
            "unknown_version_wait": 5.0,
            "retry": {"policy": "fixed", "attempts": 3, "delay": history.retry_delay},
            **adapter,
        },
    }


class OnServer:
    """A server of its own, which is disturbed through the proxy or by itself."""

    def __init__(self, history: History, binary: ServerBinary, directory: Path, bug: str) -> None:
        self._history = history
        self._directory = directory
        self._settings: dict[str, Setting] = {"appendonly": "yes"} if history.persistent else {}
        self.clock = SteppingClock() if history.does("clock") and can_step() else None
        self._environment = None if self.clock is None else self.clock.environment
        self.server = Server(binary, settings=self._settings, environment=self._environment)
        self._former: list[Server] = []
        self.proxy: FaultProxy
        self.troupe: Troupe = ProcessTroupe(directory, bug)
        self.keys = Keys(PREFIX)

    async def open(self) -> None:
        await asyncio.to_thread(self.server.start)
        self.proxy = FaultProxy((self.server.host, self.server.port))
        await asyncio.to_thread(self.proxy.__enter__)
        assert isinstance(self.troupe, ProcessTroupe)
        await self.troupe.open()

    async def close(self) -> None:
        await self.troupe.close()
        await asyncio.to_thread(self.proxy.__exit__, None, None, None)
        for server in (*self._former, self.server):
            await asyncio.to_thread(server.close)

    async def fail_over(self) -> None:
        """A replica that has everything takes over, behind the same address."""
        replica = Replica(self.server, settings=self._settings, environment=self._environment)
        self._former.append(self.server)
        await asyncio.to_thread(replica.start)
        await asyncio.to_thread(replica.take_over)
        self.server = replica
        self.proxy.target = (replica.host, replica.port)

    def part(self, label: str, service: str, *, lease: float = 1.0, version: int = 1) -> Part:
        history = self._history
        options = {
            "prefix": PREFIX,
            "addr": self.proxy.address,
            "lease": lease * history.lease,
            "block": 0.3,
            "connect_timeout": 2.0,
            "command_timeout": 2.0,
            "topic_refresh": 0.2,
            "retention": {"min_age": 0.4, "orphaned_after": history.orphaned_after},
        }
        adapter = {"adapter": "redis", "redis": options, "health": {"probes": ["engine", "redis"]}}
        return Part(
            label=label,
            service=service,
            directory=str(self._directory),
            config=_config(history, service, adapter),
            lease=history.lease,
            version=version,
        )

    async def ask(self, *command: Any) -> Any:
        """One command, by somebody else."""
        return await asyncio.to_thread(self.server.ask, *command)

    async def kept(self, groups: frozenset[str]) -> Kept:
        return await asyncio.to_thread(look, self.server, self.keys, groups)


class Memory:
    """Buses of one process that share a hub."""

    def __init__(self, history: History, directory: Path) -> None:
        self._history = history
        self._directory = directory
        self._hub = MemoryHub()
        self._locals = LocalTroupe()
        self.troupe: Troupe = self._locals

    async def open(self) -> None:
        """There is nothing to begin."""

    async def close(self) -> None:
        await self.troupe.close()

    def part(self, label: str, service: str, *, lease: float = 1.0, version: int = 1) -> Part:
        adapter = {"adapter": "memory", "memory": {"hub": self._hub}}
        return Part(
            label=label,
            service=service,
            directory=str(self._directory),
            config=_config(self._history, service, adapter),
            lease=self._history.lease,
        )

    async def kept(self, groups: frozenset[str]) -> Kept:
        letters: dict[Due, dict[str, str]] = {}
        for subscription, topic, event_id in await self._locals.ends():
            for group in groups:
                if group.endswith(f".{subscription}"):  # a letter does not tell the service
                    letters.setdefault((group, topic), {})[event_id] = ""
        return Kept(waiting={}, marked={}, letters=letters, lost={}, stored={}, made={})

"""The store ``redis`` for middleware: claims, marks and token buckets that all instances share.

Each key is one string with a time to live, ``{prefix}:store:{key}``. The server's clock decides. What the
server loses, such as in a restart without an append-only file, is forgotten.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from bus_core import AdapterError, BuildContext, CheckResult
from bus_core.config import read_settings
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.checks import UnfitServer, check_store_servers, parse_info
from promenade_bus_redis.server.connections import Connections, make_connections
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import STORE_CLAIM, STORE_RELEASE, STORE_TAKE
from promenade_bus_redis.server.target import check_options, resolve_target
from promenade_bus_redis.verdicts import DEGRADED, UNHEALTHY, Problem, server_problems, verdict

__all__ = ["OWN_SECTION", "RedisStore", "store_faults"]

OWN_SECTION: Final = "bus.redis"

_State = Literal["mine", "taken", "marked"]

_STATES: Final[Mapping[int, _State]] = {1: "mine", 0: "taken", -1: "marked"}


def store_faults(sections: Mapping[str, Any]) -> list[str]:
    """The faults of the sections, also where the bus uses another adapter."""
    faults: list[str] = []
    options = _options_in(sections, faults)
    return [*faults, *check_options(options, sections)]


def _options_in(sections: Mapping[str, Any], faults: list[str]) -> RedisOptions | None:
    return read_settings(RedisOptions, sections.get(OWN_SECTION) or {}, f"$.{OWN_SECTION}", faults)


class RedisStore:
    """Implements ``Store``, ``BoundedStore`` and ``WatchedStore`` of ``bus_core.abc``.

    Calls raise ``RedisFailure``, or ``UnfitServer`` for a server that does not meet the requirements. Both
    are an ``AdapterError``.
    """

    def __init__(self, context: BuildContext) -> None:
        options = _options_in(context.sections, [])
        assert options is not None, "the sections were checked"
        self._options = options
        self._target = resolve_target(options, context.sections)
        self._service = context.service
        self._prefix = f"{options.prefix}:store:"
        self._connections: Connections | None = None
        self._pipe: Pipe | None = None
        self._checking: asyncio.Task[None] | None = None
        self._is_checked = False

    @property
    def forgotten(self) -> int:
        """Always 0: the store refuses a server that deletes keys when its memory is full."""
        return 0

    async def start(self) -> None:
        """Checks the server. Raises ``UnfitServer`` if it would delete marks, or is none that takes writes.

        A server that cannot be reached is checked before its first use.
        """
        self._connections = make_connections(self._target, self._options, name=f"{self._service}-store")
        self._pipe = Pipe(NodeLocator(self._connections))
        try:
            await self._running()
        except RedisFailure:
            return
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finishes running calls, and closes the connections."""
        pipe, connections, checking = self._pipe, self._connections, self._checking
        self._pipe = self._connections = self._checking = None
        self._is_checked = False
        if checking is not None:
            checking.cancel()
            await asyncio.wait((checking,))
        if pipe is not None and connections is not None:
            await pipe.close()
            await connections.close()

    async def claim(self, key: str, owner: str, seconds: float) -> _State:
        """See ``bus_core.Store``."""
        reply = await (await self._running()).run(
            STORE_CLAIM, [self._prefix + key], owner, _milliseconds(seconds)
        )
        return _STATES[int(reply)]

    async def mark(self, key: str, seconds: float) -> None:
        """See ``bus_core.Store``."""
        name = self._prefix + key
        await (await self._running()).call("SET", name, "marked", "PX", _milliseconds(seconds), key=name)

    async def release(self, key: str, owner: str) -> None:
        """See ``bus_core.Store``."""
        await (await self._running()).run(STORE_RELEASE, [self._prefix + key], owner)

    async def take(self, key: str, rate: float, burst: int) -> float:
        """See ``bus_core.Store``."""
        return await self._take(key, rate, burst)

    async def take_within(self, key: str, rate: float, burst: int, longest: float) -> float:
        """See ``bus_core.abc.BoundedStore``."""
        return await self._take(key, rate, burst, f"{longest * 1_000_000:.0f}")

    async def _take(self, key: str, rate: float, burst: int, *longest: str) -> float:
        interval = f"{1_000_000 / rate:.3f}"
        reply = await (await self._running()).run(STORE_TAKE, [self._prefix + key], interval, burst, *longest)
        return int(reply) / 1_000_000

    async def check(self) -> CheckResult:
        """See ``bus_core.abc.WatchedStore``. Unhealthy if the server has begun to delete keys."""
        try:
            pipe = await self._running()
            servers = await pipe.ask_all("INFO")
        except UnfitServer as unfit:
            return CheckResult(UNHEALTHY, str(unfit))
        except RedisFailure as failure:
            return CheckResult(DEGRADED, f"{failure}; events are postponed until it answers")
        problems: list[Problem] = []
        for address, reply in servers:
            name = "the server" if len(servers) == 1 else f"the server {address}"
            if not isinstance(reply, RedisFailure):
                fails = "events are postponed"
                problems += server_problems(name, parse_info(reply), loses="marks or buckets", fails=fails)
            elif reply.kind not in (Kind.FORBIDDEN, Kind.UNKNOWN_COMMAND):
                problems.append((DEGRADED, f"{reply}; events are postponed until it answers"))
        return verdict(problems, "answers, and keeps marks and token buckets", {})

    # --- the server is checked before it is used ----------------------------------------------------------

    async def _running(self) -> Pipe:
        """Returns the pipe to a server that was checked. Callers at the same time share one check."""
        if self._pipe is None:
            raise AdapterError("the store 'redis' is not started")
        while not self._is_checked:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._check_servers(), name="check of the store 'redis'")
                self._checking.add_done_callback(_forget_failure)
            checking = self._checking
            await asyncio.wait((checking,))
            if checking.cancelled() or self._connections is None:
                raise AdapterError("the store 'redis' was closed")
            checking.result()
        return self._pipe

    async def _check_servers(self) -> None:
        assert self._connections is not None, "the store is started"
        await check_store_servers(self._connections, self._options, self._target)
        self._is_checked = True


def _forget_failure(checking: asyncio.Task[None]) -> None:
    """Callers that were cancelled do not read it, and asyncio would complain."""
    if not checking.cancelled():
        checking.exception()


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))

"""The contract on adapters for the tests of the kit: memory, a server in this process, and a SQLite file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

import attrs

import promenade_bus_memory
import promenade_bus_sqlite
from bus_core import Adapter, BuildContext, Factory, Features, Message, hookimpl
from promenade_bus_memory import MemoryHub
from promenade_bus_testing.contract import AdapterContract, Place
from support.remote import ALL, CountingRemoteAdapter, Server


class OnMemory(AdapterContract):
    """The memory adapter, handing over events as they are."""

    features = Features(groups=True, broadcast=True, ordered=True, delayed=True, in_process=True)
    plugins = (promenade_bus_memory,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "memory", "memory": {"hub": MemoryHub()}}


class OnSerializingMemory(OnMemory):
    """The memory adapter, passing every event through the serializer."""

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "memory", "memory": {"hub": MemoryHub(), "serialize": True}}


@attrs.frozen
class RemoteOptions:
    """Options that name a server."""

    server: str


class RemotePlugin:
    """Offers the adapter of ``support.remote``."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}

    @hookimpl
    def promenade_bus_adapters(self) -> Mapping[str, Factory[Any, Adapter]]:
        def build(options: RemoteOptions, _context: BuildContext) -> Adapter:
            return CountingRemoteAdapter(self.servers[options.server], ALL, 5.0)

        return {"remote": Factory(options=RemoteOptions, build=build)}


class OnRemote(AdapterContract):
    """An adapter to a server, which keeps messages outside of the engine."""

    features = ALL
    remote: ClassVar[RemotePlugin] = RemotePlugin()
    plugins = (remote,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        self.remote.servers[place.name] = Server(hands_on=True)
        return {"adapter": "remote", "remote": {"server": place.name}}

    async def dispose(self, place: Place) -> None:
        del self.remote.servers[place.name]

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        self.remote.servers[place.name].store(Message(str(uuid4()), topic, "", body))

    async def interrupt(self, place: Place) -> None:
        self.remote.servers[place.name].cut()


class OnSqlite(AdapterContract):
    """The SQLite adapter, for what needs a storage."""

    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )
    plugins = (promenade_bus_sqlite,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "sqlite", "sqlite": {"path": str(place.directory / "events.db")}}

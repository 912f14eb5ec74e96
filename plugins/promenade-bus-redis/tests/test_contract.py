from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import promenade_bus_redis
from bus_core import Features
from promenade_bus_testing.contract import AdapterContract, Place
from redis_support.fixtures import SharedServer


class TestRedis(AdapterContract):
    """The Redis adapter keeps the contract on streams, on every server that is found."""

    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )
    plugins = (promenade_bus_redis,)

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: SharedServer) -> None:
        self.server = redis_server

    def settings(self, place: Place) -> Mapping[str, Any]:
        options = {
            "url": self.server.url,
            "prefix": f"{self.server.prefix}:{place.name}",
            "topic_refresh": "200ms",
        }
        return {"adapter": "redis", "redis": options}

    def with_lease(self, settings: Mapping[str, Any], lease: float) -> Mapping[str, Any]:
        return {**settings, "redis": {**settings["redis"], "lease": f"{lease:g}s"}}

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        key = f"{self.server.prefix}:{place.name}:{{{topic}}}"
        self.server.ask("XADD", key, "*", "body", body)

    async def interrupt(self, place: Place) -> None:
        for line in self.server.ask("CLIENT", "LIST").splitlines():
            client = dict(part.partition("=")[::2] for part in line.split())
            if client["name"].rpartition(":")[2] in ("publish", "commands", "wait"):
                self.server.ask("CLIENT", "KILL", "ID", client["id"])


class TestRedisPubsub(AdapterContract):
    """``mode: pubsub`` keeps the part of the contract that applies to events stored nowhere."""

    features = Features(broadcast=True, delayed=True)
    plugins = (promenade_bus_redis,)

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: SharedServer) -> None:
        self.server = redis_server

    def settings(self, place: Place) -> Mapping[str, Any]:
        options = {"url": self.server.url, "prefix": self._prefix(place), "mode": "pubsub"}
        return {"adapter": "redis", "redis": options}

    def _prefix(self, place: Place) -> str:
        return f"{self.server.prefix}:{place.name}"

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        self.server.ask("PUBLISH", f"{self._prefix(place)}:pubsub:{topic}", body)

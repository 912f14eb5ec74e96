from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

import pytest

import promenade_bus_postgres
from bus_core import Features
from postgres_support.servers import PostgresServer
from promenade_bus_testing.contract import AdapterContract, Place
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once


class TestPostgres(AdapterContract):
    """The PostgreSQL adapter keeps the contract, with every feature."""

    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )
    plugins = (promenade_bus_postgres,)
    patience = 0.1  # a loaded server takes longer to answer than a file
    server: ClassVar[PostgresServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, postgres_server: PostgresServer) -> None:
        cls.server = postgres_server

    def schema(self, place: Place) -> Schema:
        return Schema(self.server, place.name.replace("-", "_"))

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "postgres", "postgres": self.schema(place).options()}

    def with_lease(self, settings: Mapping[str, Any], lease: float) -> Mapping[str, Any]:
        return {**settings, "postgres": {**settings["postgres"], "lease": f"{lease:g}s"}}

    async def dispose(self, place: Place) -> None:
        self.schema(place).drop()

    async def interrupt(self, place: Place) -> None:
        self.schema(place).cut()

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        schema = self.schema(place)
        schema.ask("INSERT INTO promenade_topic (name) VALUES (%s) ON CONFLICT DO NOTHING", topic)
        schema.ask(
            "INSERT INTO promenade_event (topic, id, body) SELECT id, %s, %s FROM promenade_topic"
            " WHERE name = %s",
            str(uuid4()),
            body,
            topic,
        )

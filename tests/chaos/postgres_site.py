"""A PostgreSQL server in place of a Redis server, and what goes wrong with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import attrs

from bus_core import AnyAdapter
from chaos.scenario import Size
from chaos.sites import Site
from chaos.stage import Stage
from postgres_support.servers import HOST, USER, PostgresServer
from promenade_bus_postgres.adapter import PostgresAdapter
from promenade_bus_postgres.losses import count_losses

__all__ = ["CutConnections", "HoldTransaction", "OnePostgres", "RestartPostgres"]

_LEFT = """SELECT (SELECT count(*) FROM promenade_delivery WHERE subscription = own.id)
+ (SELECT count(*) FROM promenade_event AS new
    WHERE topic = (SELECT id FROM promenade_topic WHERE name = own.pattern)
        AND (new.tx, new.seq) > (own.cursor_tx, own.cursor_seq))
FROM promenade_subscription AS own WHERE service_group = %s AND pattern = %s"""

_HELD = """SELECT count(*) FROM promenade_delivery JOIN promenade_subscription AS own ON own.id = subscription
WHERE service_group = %s AND pattern = %s AND owner > 0"""


class OnePostgres(Site):
    """One server that all processes share. It waits for no disk, but loses nothing when it is killed."""

    def open(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(PostgresServer({"synchronous_commit": "on"}))

    def section(self, own: Mapping[str, Any], *, proxied: bool) -> dict[str, Any]:
        options = {name: value for name, value in own.items() if name != "durability"}
        where = {"host": HOST, "port": self.server.port, "user": USER, "name": "postgres"}
        more = {"migrate": True, "poll": 0.2, "statement_timeout": 5.0}
        return {"adapter": "postgres", "postgres": {**where, **more, **options}}

    def left(self, topic: str, group: str) -> int:
        return self._ask(_LEFT, group, topic)

    def held(self, topic: str, group: str, pid: int) -> int:
        # Which process an owner belongs to is nobody's business but its own: this is what all of them hold.
        return self._ask(_HELD, group, topic)

    def _ask(self, statement: str, *values: object) -> int:
        with self.server.connect() as connection:
            row = connection.execute(statement.encode(), values).fetchone()
        return 0 if row is None else int(row[0])

    def heal(self) -> None:
        if not self.server.is_running:
            self.server.start()

    async def losses_of(self, adapter: AnyAdapter) -> int:
        assert isinstance(adapter, PostgresAdapter)
        services = adapter.running
        return await services.database.run(lambda connection: count_losses(connection, services.sql))


@attrs.frozen(kw_only=True)
class CutConnections:
    """Every connection of the bus is cut, again and again. Noted as ``cuts``."""

    every: float
    times: Size

    def __call__(self, stage: Stage) -> None:
        assert isinstance(stage.site, OnePostgres)
        for _ in range(stage.times(self.times)):
            stage.site.server.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'promenade-bus%'"
            )
            stage.notes["cuts"] += 1
            time.sleep(self.every)


@attrs.frozen(kw_only=True)
class RestartPostgres:
    """SIGKILL to the server with all its connections, and a new start later. Noted as ``restarts``."""

    seconds: float
    times: Size

    def __call__(self, stage: Stage) -> None:
        assert isinstance(stage.site, OnePostgres)
        for _ in range(stage.times(self.times)):
            stage.site.server.kill()
            time.sleep(self.seconds)
            stage.site.server.start()
            stage.notes["restarts"] += 1
            time.sleep(1.0)


@attrs.frozen(kw_only=True)
class HoldTransaction:
    """Somebody keeps a writing transaction open for some time, again and again. Noted as ``holds``."""

    seconds: float
    times: Size

    def __call__(self, stage: Stage) -> None:
        assert isinstance(stage.site, OnePostgres)
        for _ in range(stage.times(self.times)):
            with stage.site.server.connect(autocommit=False) as holder:
                holder.execute(b"SELECT pg_current_xact_id()")
                stage.notes["holds"] += 1
                time.sleep(self.seconds)
                holder.rollback()
            time.sleep(0.3)

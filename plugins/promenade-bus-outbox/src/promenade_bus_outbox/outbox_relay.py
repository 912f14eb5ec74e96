"""The relay of an outbox, from its start to its end, and what there is to see and to repair."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self

from bus_core import Bus, BusNotStarted, SyncBus
from bus_core.abc import Seconds
from bus_core.runtime import plain_logger
from promenade_bus_outbox.connection import OutboxConnection, OutboxDatabase, check
from promenade_bus_outbox.errors import OutboxError
from promenade_bus_outbox.health import OutboxProbe
from promenade_bus_outbox.relay import Relay, RelayOptions
from promenade_bus_outbox.rows import Rows
from promenade_bus_outbox.status import OutboxStatus, read_status

__all__ = ["OutboxRelay"]

logger = plain_logger("promenade.outbox")


class OutboxRelay:
    """Takes the committed rows of an outbox to a bus, whoever writes them: SQLAlchemy, Django, or another.

    ``database`` is a ``DriverDatabase``, or another ``OutboxDatabase``. ``async with bus, relay`` delivers in
    the meantime; with ``relay=False`` another process does, and this object shows and repairs. Of a
    ``SyncBus`` it is ``with bus, relay``. An ``Outbox`` is one that publishes as well.

    Options of the relay, times in seconds or as timedelta: ``batch`` is the maximum number of events of one
    read. ``poll`` is the pause before it looks again for events of other processes. ``lease`` is how long the
    events of a relay that died wait for another one. ``keep`` is how long delivered events are kept; None
    deletes them at once. After the bus has refused an event for good, ``after_refusal`` lets the later ones
    of its key go on (``"continue"``), or wait until somebody calls ``retry_refused`` or ``discard_refused``
    (``"hold_key"``). Raises ``ValueError`` for an option that makes no sense.
    """

    def __init__(
        self,
        bus: Bus | SyncBus,
        database: OutboxDatabase,
        relay: bool = True,
        *,
        batch: int = 500,
        poll: Seconds = 0.25,
        lease: Seconds = 10.0,
        keep: Seconds | None = None,
        after_refusal: Literal["continue", "hold_key"] = "continue",
    ) -> None:
        self._sync_bus = bus if isinstance(bus, SyncBus) else None
        self._bus = bus.bus if isinstance(bus, SyncBus) else bus
        self._database = database
        if after_refusal not in ("continue", "hold_key"):
            raise ValueError(f"after_refusal must be 'continue' or 'hold_key', got {after_refusal!r}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self._runs_relay = relay
        self._options = RelayOptions(
            batch=batch,
            poll=_seconds("poll", poll),
            lease=_seconds("lease", lease),
            keep=None if keep is None else _seconds("keep", keep),
            holds_keys=after_refusal == "hold_key",
        )
        self._relay: Relay | None = None
        for probe in self._bus.parts.probes.values():
            if isinstance(probe, OutboxProbe):
                probe.watch(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._bus!r}>"

    @property
    def bus(self) -> Bus:
        """The bus that gets the events."""
        return self._bus

    @property
    def database(self) -> OutboxDatabase:
        """The database of the rows."""
        return self._database

    @property
    def relay(self) -> Relay | None:
        """The relay that runs here, if there is one."""
        return self._relay

    def committed(self) -> None:
        """Wakes the relay that runs here, if there is one: rows were committed. Safe from any thread."""
        relay = self._relay
        if relay is not None:
            relay.wake()

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self, *, relay: bool | None = None) -> None:
        """Checks the database, and starts the relay; no-op when it runs. Start the bus before.

        ``relay`` overrides the choice of the constructor. Raises ``OutboxError`` when the database or its
        version is not supported, ``MissingTables``, and ``BusNotStarted``.
        """
        if self._relay is not None:
            return
        await check(self._database)
        if not (self._runs_relay if relay is None else relay):
            return
        if self._bus.status != "open":
            raise BusNotStarted("start the relay of the outbox")
        if self.volatile_adapter is not None:
            logger.warning(
                "the outbox hands its events to the adapter %s, which does not outlive this process, nor do "
                "its events; choose a durable adapter where that matters",
                self.volatile_adapter,
            )
        started = Relay(self._bus, self._database, self._options)
        await started.start()
        self._relay = started

    async def close(self) -> None:
        """Stops the relay, if it runs. Undelivered events wait for the next one."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.stop()

    async def __aenter__(self) -> Self:
        if self._sync_bus is not None:
            raise OutboxError("the outbox of a SyncBus is used with 'with outbox:'")
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        if self._sync_bus is None:
            raise OutboxError("the outbox of a Bus is used with 'async with outbox:'")
        self._sync_bus.run_on_loop("start the outbox", self.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._sync_bus is not None, "it was entered"
        self._sync_bus.run_on_loop("close the outbox", self.close)

    # --- looking on ---------------------------------------------------------------------------------------

    @property
    def volatile_adapter(self) -> str | None:
        """The adapter of the bus, if it loses the relay's events with the process."""
        adapter = self._bus.adapter
        return None if adapter.features.durable else adapter.name

    @property
    def problem(self) -> str | None:
        """The fault of the relay that runs here, if there is one."""
        return None if self._relay is None else self._relay.problem

    async def status(self) -> OutboxStatus:
        """A snapshot: waiting events, their age, the relays, and the transaction that holds them up."""
        names, rows = self._database.names, self._rows()
        return await self._database.run(lambda connection: read_status(connection, names, rows))

    async def retry_refused(self, positions: Sequence[int] | None = None) -> int:
        """Delivers events again that the bus has refused, all of them or some. Returns their number."""

        def retry(connection: OutboxConnection) -> int:
            return self._rows().retry(connection, positions)

        count = await self._database.run(retry)
        self.committed()
        return count

    async def discard_refused(self, positions: Sequence[int]) -> int:
        """Deletes events that the bus has refused. Returns their number."""
        return await self._database.run(lambda connection: self._rows().discard(connection, positions))

    def _rows(self) -> Rows:
        return Rows(self._database.names, self._database.dialect)


def _seconds(name: str, value: Seconds) -> float:
    seconds: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} is a number of seconds or a timedelta, got {value!r}")
    if not seconds > 0:
        raise ValueError(f"{name} must be more than 0 seconds, got {value!r}")
    return float(seconds)

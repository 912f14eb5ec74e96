"""The assignment of partitions to relays: leases by counters, without a time of day.

Each relay increments a heartbeat of its own, and one in each partition that it owns. Another relay claims a
partition when its heartbeat has not changed for a whole lease by the claiming relay's own clock. The claiming
statement fails if the heartbeat has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import attrs

from bus_core.runtime import lease_clock
from promenade_bus_outbox.connection import OutboxConnection
from promenade_bus_outbox.names import PARTITIONS, TableNames

__all__ = ["Leases"]

K = TypeVar("K")

_CERTAIN: Final = 0.7
"""The part of a lease on which its owner relies; others wait for all of it."""

_FORGOTTEN: Final = 10
"""The number of leases without a heartbeat after which the row of a relay is removed."""


class _Watch:
    """The times since when counters have been unchanged, on the clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[Any, tuple[object, float]] = {}

    def look(self, counters: Mapping[Any, object], now: float) -> None:
        """Notes changed counters."""
        before = self._seen
        self._seen = {
            key: before[key] if key in before and before[key][0] == counter else (counter, now)
            for key, counter in counters.items()
        }

    def unchanged(self, key: object, now: float) -> float:
        """The seconds since a counter was first seen at its present value."""
        return now - self._seen[key][1]


@attrs.frozen
class _Partition:
    owner: str | None
    heartbeat: int


class Leases:
    """The partitions of one relay. Methods with a connection run in its transaction."""

    def __init__(
        self, names: TableNames, relay: str, lease: float, clock: Callable[[], float] = lease_clock
    ) -> None:
        self.relay = relay
        self.lease = lease
        self._clock = clock
        self._names = names
        self._mine: frozenset[int] = frozenset()
        self._confirmed = -lease
        self._relays = _Watch()
        self._partitions = _Watch()
        self._alive: set[str] = set()
        self._found: dict[int, _Partition] = {}
        self._renewed = self._confirmed
        self._surplus: list[int] = []
        self._free: list[int] = []
        self.others = 0
        """The number of other relays that seemed alive at the last check."""

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that certainly belong to this relay; none when it has not renewed them in time."""
        return self._mine if self._clock() - self._confirmed < self.lease * _CERTAIN else frozenset()

    @property
    def _share(self) -> int:
        return -(-PARTITIONS // (self.others + 1))

    def prepare(self, connection: OutboxConnection) -> None:
        """Adds missing rows of partitions."""
        table = self._names.partitions
        there = {number for (number,) in connection.query(f"SELECT partition FROM {table}")}
        missing = [f"({number}, 0)" for number in range(PARTITIONS) if number not in there]
        if missing:  # another relay may add them at the same moment
            rows = ", ".join(missing)
            connection.execute(
                f"INSERT INTO {table} (partition, heartbeat) VALUES {rows} ON CONFLICT DO NOTHING"
            )

    def renew(self, connection: OutboxConnection) -> None:
        """Renews the owned partitions, and reads the others."""
        now = self._clock()
        partitions, relays, me = self._names.partitions, self._names.relays, {"relay": self.relay}
        beat = f"UPDATE {relays} SET heartbeat = heartbeat + 1 WHERE relay = :relay"
        if connection.execute(beat, me) == 0:
            connection.execute(f"INSERT INTO {relays} (relay, heartbeat) VALUES (:relay, 0)", me)
        connection.execute(f"UPDATE {partitions} SET heartbeat = heartbeat + 1 WHERE owner = :relay", me)
        heartbeats: dict[str, int] = {
            relay: heartbeat
            for relay, heartbeat in connection.query(f"SELECT relay, heartbeat FROM {relays}")
            if relay != self.relay
        }
        self._relays.look(heartbeats, now)
        self._forget_the_dead(connection, heartbeats, now)
        self._alive = {relay for relay in heartbeats if self._relays.unchanged(relay, now) < self.lease}
        self._found = {
            number: _Partition(owner, heartbeat)
            for number, owner, heartbeat in connection.query(
                f"SELECT partition, owner, heartbeat FROM {partitions}"
            )
        }
        self._partitions.look(
            {number: (each.owner, each.heartbeat) for number, each in self._found.items()}, now
        )
        self._renewed = now

    def renewed(self) -> None:
        """Applies the result of ``renew``, after its commit."""
        self.others = len(self._alive)
        self._confirmed = self._renewed
        self._mine = frozenset(number for number, each in self._found.items() if each.owner == self.relay)
        surplus = sorted(self._mine)[self._share :]
        self._surplus = surplus
        self._free = sorted(
            number for number, each in self._found.items() if self._is_free(number, each, self._renewed)
        )[: max(0, self._share - len(self._mine))]

    @property
    def is_uneven(self) -> bool:
        """Returns True if it owns more than its share, or may claim something."""
        return bool(self._surplus or self._free)

    def balance(self, connection: OutboxConnection) -> frozenset[int]:
        """Releases partitions beyond its share, and claims free ones.

        Returns the partitions that it then owns.
        """
        if self._surplus:
            self._give_up(connection, self._surplus)
        claimed = {number for number in self._free if self._claim(connection, number, self._found[number])}
        return self._mine - {*self._surplus} | claimed

    def balanced(self, mine: frozenset[int]) -> None:
        """Applies the result of ``balance``, after its commit."""
        self._mine = mine
        self._surplus, self._free = [], []

    def _is_free(self, number: int, partition: _Partition, now: float) -> bool:
        if partition.owner is None:
            return True
        return partition.owner != self.relay and self._partitions.unchanged(number, now) >= self.lease

    def _claim(self, connection: OutboxConnection, number: int, seen: _Partition) -> bool:
        same = {"partition": number, "heartbeat": seen.heartbeat, "relay": self.relay}
        if seen.owner is not None:
            same["owner"] = seen.owner
        claimed = connection.execute(
            f"UPDATE {self._names.partitions} SET owner = :relay, heartbeat = heartbeat + 1 "
            "WHERE partition = :partition AND heartbeat = :heartbeat AND "
            + ("owner IS NULL" if seen.owner is None else "owner = :owner"),
            same,
        )
        return claimed == 1

    def _give_up(self, connection: OutboxConnection, numbers: Collection[int]) -> None:
        dialect = connection.dialect
        connection.execute(
            f"UPDATE {self._names.partitions} SET owner = NULL, heartbeat = heartbeat + 1 "
            f"WHERE owner = :relay AND {dialect.among('partition', 'those')}",
            {"relay": self.relay, "those": dialect.numbers(numbers)},
        )

    def _forget_the_dead(
        self, connection: OutboxConnection, heartbeats: Mapping[str, int], now: float
    ) -> None:
        for relay, heartbeat in heartbeats.items():
            if self._relays.unchanged(relay, now) >= self.lease * _FORGOTTEN:
                connection.execute(
                    f"DELETE FROM {self._names.relays} WHERE relay = :relay AND heartbeat = :heartbeat",
                    {"relay": relay, "heartbeat": heartbeat},
                )

    def leave(self, connection: OutboxConnection) -> None:
        """Releases everything, so that others need not wait for the end of a lease."""
        self._give_up(connection, range(PARTITIONS))
        connection.execute(f"DELETE FROM {self._names.relays} WHERE relay = :relay", {"relay": self.relay})
        self._mine = frozenset()

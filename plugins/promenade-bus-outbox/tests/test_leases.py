"""The owners of partitions: leases by counters and by the clock of whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import update

from outbox_support.stage import Stage
from promenade_bus_outbox.leases import Leases
from promenade_bus_outbox.names import PARTITIONS

pytestmark = pytest.mark.once

LEASE = 9.0


class Hand:
    """A clock that somebody turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Relays:
    """Relays on one database, all on one clock."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.database = stage.driver_database()
        self.clock = Hand()

    def add(self, name: str, clock: Callable[[], float] | None = None) -> Leases:
        leases = Leases(self.database.names, name, LEASE, clock or self.clock)
        self.database.run_here(leases.prepare)
        return leases

    def renew(self, leases: Leases) -> None:
        self.database.run_here(leases.renew)
        leases.renewed()

    def balance(self, leases: Leases) -> None:
        leases.balanced(self.database.run_here(leases.balance))

    def step(self, *several: Leases) -> None:
        for leases in several:
            self.renew(leases)
            self.balance(leases)

    def leave(self, leases: Leases) -> None:
        self.database.run_here(leases.leave)


@pytest.fixture(params=["sqlite", "postgres"])
def relays(request: pytest.FixtureRequest) -> Iterator[Relays]:
    """Relays on each database."""
    stage: Any = request.getfixturevalue(request.param)
    relays = Relays(stage)
    yield relays
    relays.database.close()


def test_the_only_relay_owns_every_partition(relays: Relays) -> None:
    """At once: nobody has to be waited for."""
    first = relays.add("first")
    relays.step(first)
    assert len(first.owned) == PARTITIONS


def test_relays_share_the_partitions_evenly_and_no_partition_has_two_owners(relays: Relays) -> None:
    """A relay with more than its share gives it up, and the others take it."""
    several = [relays.add(name) for name in ("first", "second", "third")]
    for _ in range(3):
        relays.step(*several)
    owned = [leases.owned for leases in several]
    assert sorted(map(len, owned)) == [10, 11, 11]
    assert sorted(number for each in owned for number in each) == [*range(PARTITIONS)]


def test_what_a_relay_leaves_behind_is_taken_at_once(relays: Relays) -> None:
    """One that ends in good order makes nobody wait."""
    first, second = relays.add("first"), relays.add("second")
    relays.step(first, second, first, second)
    relays.leave(first)
    assert first.owned == frozenset()
    relays.step(second, second)
    assert len(second.owned) == PARTITIONS


def test_a_relay_that_is_silent_for_a_lease_loses_its_partitions(relays: Relays) -> None:
    """Not a moment earlier, and by the clock of the other."""
    first, second = relays.add("first"), relays.add("second")
    relays.step(first)
    relays.step(second)
    assert second.owned == frozenset()
    relays.clock.now += LEASE - 0.1
    relays.step(second)
    assert second.owned == frozenset()
    relays.clock.now += 0.2
    relays.step(second)
    assert len(second.owned) == PARTITIONS


def test_a_relay_relies_on_its_leases_for_less_than_others_wait(relays: Relays) -> None:
    """It owns nothing by its own account before anybody can take it over."""
    first, second = relays.add("first"), relays.add("second")
    relays.step(first)
    relays.step(second)
    relays.clock.now += LEASE * 0.75
    assert first.owned == frozenset()
    relays.renew(first)
    assert len(first.owned) == PARTITIONS
    relays.clock.now += LEASE * 0.5
    relays.step(second)
    assert second.owned == frozenset()


def test_a_relay_that_comes_back_learns_what_it_has_lost(relays: Relays) -> None:
    """A partition that the other one has claimed is not its own any more, whatever it remembers."""
    first, second = relays.add("first"), relays.add("second")
    relays.step(first)
    relays.step(second)
    relays.clock.now += LEASE + 0.1
    relays.step(second)
    relays.renew(first)
    assert first.owned == frozenset()
    assert len(second.owned) == PARTITIONS


def test_a_claim_fails_when_the_owner_has_renewed_in_between(relays: Relays) -> None:
    """The counter that was seen decides, in the statement that claims."""
    first, second = relays.add("first"), relays.add("second")
    relays.step(first)
    relays.step(second)
    relays.clock.now += LEASE + 0.1
    relays.renew(second)
    assert second.is_uneven
    relays.renew(first)
    relays.balance(second)
    assert second.owned == frozenset()
    assert len(first.owned) == PARTITIONS


def test_no_time_of_day_decides(relays: Relays) -> None:
    """A relay whose clock shows another time than the others' keeps what it renews."""
    other = Hand()
    other.now = 5_000_000.0
    first, second = relays.add("first"), relays.add("second", other)
    relays.step(first, second)
    for _ in range(4):
        relays.clock.now += LEASE / 3
        other.now += LEASE / 3
        relays.step(first, second)
    assert sorted([*first.owned, *second.owned]) == [*range(PARTITIONS)]


def test_the_row_of_a_relay_that_is_gone_for_long_is_removed(relays: Relays) -> None:
    """Its name does not count among the living, and not among the dead for ever."""
    first, second = relays.add("first"), relays.add("second")
    relays.step(first, second)
    relays.clock.now += LEASE * 5
    relays.step(second)
    assert second.others == 0
    relays.clock.now += LEASE * 6
    relays.step(second)
    assert relays.stage.rows(relays.stage.tables.relays.select()) == [("second", 2)]


def test_partitions_that_are_there_already_are_left_as_they_are(relays: Relays) -> None:
    """Another start of a relay takes nothing away."""
    first = relays.add("first")
    relays.step(first)
    with relays.stage.connect() as connection, connection.begin():
        table = relays.stage.tables.partitions
        connection.execute(update(table).where(table.c.partition == 0).values(heartbeat=77))
    relays.add("second")
    assert relays.stage.scalar(table.select().where(table.c.partition == 0)) == 0
    assert relays.stage.rows(table.select().where(table.c.heartbeat == 77)) == [(0, "first", 77)]

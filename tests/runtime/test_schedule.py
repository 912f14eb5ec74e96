"""Items that wait for their time share one timer, and come in order."""

from __future__ import annotations

import random

import pytest

from bus_core.runtime.schedule import Schedule
from promenade_bus_testing import VirtualClock


class Due:
    """A schedule, and what has come of it: each item with the time at which it came."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.came: list[tuple[float, int]] = []
        self.schedule = Schedule[int](clock, self._note)

    def _note(self, items: list[int]) -> None:
        self.came += [(self.clock.monotonic(), item) for item in items]


async def test_each_comes_at_its_time(virtual_clock: VirtualClock) -> None:
    """Items come when they are due, however they were added, and with one timer at a time."""
    due = Due(virtual_clock)
    for item in (3, 1, 2, 5, 4):
        due.schedule.add(item, item)
        assert len(virtual_clock.timers) == 1
    await virtual_clock.advance(2.5)
    assert due.came == [(1, 1), (2, 2)]
    assert (len(due.schedule), 3 in due.schedule, 2 in due.schedule) == (3, True, False)
    assert [*due.schedule] == [3, 5, 4]
    await virtual_clock.advance(10)
    assert due.came[2:] == [(3, 3), (4, 4), (5, 5)]
    assert virtual_clock.timers == []


async def test_those_of_one_time_come_together_and_in_order(virtual_clock: VirtualClock) -> None:
    """Timers due at the same time fire together, in the order in which they were added."""
    calls: list[list[int]] = []
    schedule = Schedule[int](virtual_clock, calls.append)
    for item in (9, 2, 7):
        schedule.add(item, 1)
    await virtual_clock.advance(1)
    assert calls == [[9, 2, 7]]


async def test_what_was_removed_never_comes(virtual_clock: VirtualClock) -> None:
    """A removed item does not come, may be added again, and the last one takes the timer along."""
    due = Due(virtual_clock)
    due.schedule.add(1, 1)
    due.schedule.add(2, 2)
    due.schedule.remove(1)
    due.schedule.add(1, 3)
    await virtual_clock.advance(2)
    assert due.came == [(2, 2)]
    due.schedule.remove(1)
    assert virtual_clock.timers == []
    with pytest.raises(KeyError):
        due.schedule.remove(1)


async def test_cleared(virtual_clock: VirtualClock) -> None:
    """Clearing returns what has not come, and stops the timer."""
    due = Due(virtual_clock)
    due.schedule.add(1, 2)
    due.schedule.add(2, 1)
    assert due.schedule.clear() == [1, 2]
    assert virtual_clock.timers == []
    await virtual_clock.advance(5)
    assert due.came == []


async def test_removed_items_take_no_room(virtual_clock: VirtualClock) -> None:
    """However many items are added and removed before they are due, only those that wait are kept."""
    due = Due(virtual_clock)
    due.schedule.add(-1, 3600)
    for item in range(1000):
        due.schedule.add(item, 3600)
        due.schedule.remove(item)
    assert len(due.schedule._heap) <= 3


@pytest.mark.parametrize("seed", range(20))
async def test_any_order(virtual_clock: VirtualClock, seed: int) -> None:
    """Each item comes once, in order and not early, after random additions and removals."""
    chance = random.Random(seed)
    due = Due(virtual_clock)
    expected: dict[int, float] = {}
    for item in range(200):
        delay = chance.choice([0, 0.25, 0.5, 1.5, chance.random() * 3])
        due.schedule.add(item, delay)
        expected[item] = virtual_clock.monotonic() + delay
        if chance.random() < 0.3:
            gone = chance.choice([*due.schedule])
            due.schedule.remove(gone)
            del expected[gone]
        if chance.random() < 0.2:
            await virtual_clock.advance(chance.choice([0, 0.25, 1]))
    await virtual_clock.advance(5)
    assert {item: when for when, item in due.came} == pytest.approx(expected)
    assert len(due.came) == len(expected)
    assert due.came == sorted(due.came, key=lambda each: each[0])

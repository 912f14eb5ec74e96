from __future__ import annotations

import pytest

from bus_core import BuildContext, Clock, Store
from bus_core.config import read_settings
from promenade_bus_middleware import promenade_bus_stores
from promenade_bus_testing import VirtualClock
from support.store_contract import MARKED, MINE, StoreContract, keeps_no_place_too_far


def memory_store(clock: Clock, **options: int) -> Store:
    factory = promenade_bus_stores()["memory"]
    settings = read_settings(factory.options, options, "$", [])
    return factory.build(settings, BuildContext(service="tests", clock=clock))


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, virtual_clock: VirtualClock) -> Store:
        self.clock = virtual_clock
        return memory_store(virtual_clock)

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def test_places_are_bounded(self, store: Store) -> None:
        """A bucket keeps no place later than its callers wait."""
        await keeps_no_place_too_far(store)


async def test_marks_are_bounded(virtual_clock: VirtualClock) -> None:
    """When there are too many marks the oldest is dropped and counted, unless it was over."""
    store = memory_store(virtual_clock, max_keys=2)
    for key in ("a", "b", "c"):
        await store.mark(key, 10)
    assert await store.claim("a", "me", 1) == MINE
    assert await store.claim("b", "me", 1) == MARKED
    assert store.forgotten == 1
    await virtual_clock.advance(10)
    await store.mark("d", 10)
    assert store.forgotten == 1


async def test_buckets_are_bounded(virtual_clock: VirtualClock) -> None:
    """When there are too many buckets the one that was unused longest is dropped, and counted if not full."""
    store = memory_store(virtual_clock, max_keys=2)
    for key in ("a", "b", "a", "c"):
        await store.take(key, 1, 5)
    assert store.forgotten == 1
    await virtual_clock.advance(10)
    await store.take("d", 1, 5)
    assert store.forgotten == 1

"""The contract of stores for middleware. A test class of a store derives from it and makes the store."""

from __future__ import annotations

import asyncio

import pytest

from bus_core import Store
from bus_core.abc import BoundedStore

__all__ = ["StoreContract", "keeps_no_place_too_far"]

MINE, TAKEN, MARKED = "mine", "taken", "marked"


class StoreContract:
    """``store`` is a fixture; ``wait`` lets some seconds pass on the clock of the store."""

    async def wait(self, seconds: float) -> None:
        raise NotImplementedError

    async def test_one_owner_has_a_key(self, store: Store) -> None:
        """A key that is claimed is taken for others, and its owner can extend it."""
        assert await store.claim("k", "a", 60) == MINE
        assert await store.claim("k", "b", 60) == TAKEN
        assert await store.claim("k", "a", 60) == MINE
        assert await store.claim("other", "b", 60) == MINE

    async def test_of_many_callers_one_wins(self, store: Store) -> None:
        """Of callers at the same time exactly one gets the key."""
        claims = await asyncio.gather(*(store.claim("k", str(n), 60) for n in range(20)))
        assert sorted(claims) == ["mine"] + ["taken"] * 19

    async def test_a_claim_ends(self, store: Store) -> None:
        """A claim that is over, or given back, is free for others; giving back another's does nothing."""
        await store.claim("k", "a", 0.05)
        await self.wait(0.06)
        assert await store.claim("k", "b", 60) == MINE
        await store.release("k", "a")
        assert await store.claim("k", "c", 60) == TAKEN
        await store.release("k", "b")
        assert await store.claim("k", "c", 60) == MINE

    async def test_a_mark_stays_and_ends(self, store: Store) -> None:
        """A mark beats every claim until its time is over, and is not released."""
        await store.claim("k", "a", 60)
        await store.mark("k", 0.5)
        await store.release("k", "a")
        assert await store.claim("k", "a", 60) == await store.claim("k", "b", 60) == MARKED
        await self.wait(0.51)
        assert await store.claim("k", "b", 60) == MINE

    async def test_a_bucket_gives_its_tokens(self, store: Store) -> None:
        """A bucket gives as many tokens as it holds at once, and tells later callers different times."""
        taken = [await store.take("b", 10, 3) for _ in range(3)]
        assert taken == [0, 0, 0]
        waits = [await store.take("b", 10, 3) for _ in range(3)]
        assert waits == pytest.approx([0.1, 0.2, 0.3], abs=0.09)
        assert waits == sorted({*waits})
        assert await store.take("other", 10, 3) == 0

    async def test_a_bucket_fills_again(self, store: Store) -> None:
        """A bucket gets its rate, and holds no more than its size."""
        assert [await store.take("b", 20, 1) == 0 for _ in range(2)] == [True, False]
        await self.wait(0.06)
        assert await store.take("b", 20, 1) == 0
        await self.wait(0.2)
        assert [await store.take("b", 20, 2) == 0 for _ in range(3)][:2] == [True, True]

    async def test_a_raised_rate_counts_at_once(self, store: Store) -> None:
        """A bucket that was emptied at a low rate is full again as soon as a later, higher rate says."""
        assert await store.take("b", 0.01, 1) == 0
        assert await store.take("b", 10, 1) <= 0.1


async def keeps_no_place_too_far(store: Store) -> None:
    """Callers that would wait too long are told so, have no place, and delay nobody."""
    assert isinstance(store, BoundedStore)
    waits = [await store.take_within("b", 0.01, 1, 250) for _ in range(50)]
    assert waits[:3] == pytest.approx([0, 100, 200], abs=40)
    assert waits[3:] == pytest.approx([300] * 47, abs=40)
    assert await store.take_within("b", 0.01, 1, 1000) == pytest.approx(300, abs=40)
    for _ in range(50):
        await store.take("b", 0.01, 1)
    assert await store.take_within("b", 0.01, 1, 250) == pytest.approx(350, abs=40)
    assert await store.take_within("b", 0.01, 1, 1000) == pytest.approx(350, abs=40)

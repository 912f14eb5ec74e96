"""A task that lasts: it begins anew when somebody cancelled it, and ends when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from bus_core.runtime import BackgroundTask
from support.buses import until


async def test_it_begins_anew_until_its_end() -> None:
    """It begins anew when a program cancels all tasks, after it was cut; after its end it is over."""
    begun: list[asyncio.Task[object]] = []
    cuts: list[int] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        begun.append(task)
        await asyncio.Event().wait()

    background = BackgroundTask(work, "lasts", cut=lambda: cuts.append(len(begun)))
    assert not background.is_started
    background.start()
    await until(lambda: begun, "it has begun")
    begun[0].cancel()
    await until(lambda: len(begun) == 2, "it has begun anew")
    assert cuts == [1]
    await background.end()
    assert begun[1].cancelled()
    assert not background.is_started
    background.start()
    assert not background.is_started


async def test_who_is_cancelled_while_it_ends_is_cancelled() -> None:
    """A close that is cut short does not go on, although work that does not end keeps it waiting."""
    begun, ends = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await ends.wait()
        except asyncio.CancelledError:
            await ends.wait()

    background = BackgroundTask(work, "lasts")
    background.start()
    await begun.wait()
    ending = asyncio.create_task(background.end())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    ends.set()

"""Publishing several events in order: many at the same time, with a result for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import attrs

from bus_core.abc import Handler
from bus_core.errors import PublishManyError
from bus_core.events.messages import Envelope

__all__ = ["Begin", "EnvelopeTasks", "publish_in_order", "raise_failures"]

T = TypeVar("T")

Begin = Callable[[T], asyncio.Future[None] | None]
"""Begins to publish an item behind those before; None where it has to be published by itself."""

_MOST_UNDER_WAY: Final = 2000
"""The most events of one call that are handed over and not awaited yet, enough to keep an adapter busy."""

_MOST_TASKS: Final = 500
"""The most events of one call that are in tasks: a time limit of their middleware includes those before."""


async def publish_in_order(
    items: Iterable[T],
    begin: Begin[T],
    publish: Callable[[T], Awaitable[None]],
) -> list[Exception | None]:
    """Publishes items, and returns a result for each.

    Many are published at the same time. If ``begin`` returns no future, ``publish`` publishes the item by
    itself, after those before. A cancelled caller takes back what was not sent yet, and waits until the tasks
    among the futures have ended.
    """
    results: list[Exception | None] = []
    under_way: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def finish(left: int) -> None:
        while len(under_way) > left:
            index, published = under_way[0]
            if not published.done():
                # A cancellation of the caller must end all of them, and not only the first one.
                await asyncio.wait((published,))
            results[index] = await _result_of(published)
            under_way.popleft()

    try:
        try:
            for item in items:
                results.append(None)
                try:
                    published = begin(item)
                except Exception as error:
                    results[-1] = error
                    continue
                if published is not None:
                    under_way.append((len(results) - 1, published))
                    most = _MOST_TASKS if isinstance(published, asyncio.Task) else _MOST_UNDER_WAY
                    if len(under_way) >= most:
                        await finish(most // 2)
                else:
                    await finish(0)
                    results[-1] = await _result_of(publish(item))
        except Exception:  # by the items themselves: those before are published
            await finish(0)
            raise
        await finish(0)
    except asyncio.CancelledError:
        await _take_back([published for _, published in under_way])
        raise
    return results


async def _result_of(publishing: Awaitable[None]) -> Exception | None:
    """None when the event was accepted, otherwise the error."""
    try:
        await publishing
    except Exception as error:
        return error
    return None


async def _take_back(published: Sequence[asyncio.Future[None]]) -> None:
    """Cancels all of them. Returns when the last task has ended, however often the caller is cancelled."""
    for each in published:
        each.cancel()
    while any(not each.done() for each in published):
        try:
            await asyncio.wait(published)
        except asyncio.CancelledError:
            for each in published:
                each.cancel()
    for each in published:
        if not each.cancelled():
            each.exception()  # nobody asks for it any more


def raise_failures(results: Sequence[Exception | None]) -> None:
    """Raises ``PublishManyError`` with all results when one of them is an error."""
    if any(result is not None for result in results):
        raise PublishManyError(results)


@attrs.frozen(eq=False)
class _Passing:
    """An envelope in a task. ``handed_over`` is done when the carrier has its event, or will not get it."""

    envelope: Envelope
    handed_over: asyncio.Future[None]


class EnvelopeTasks:
    """Envelopes of ``publish_many`` and ``after_commit`` that pass through publish middleware in tasks.

    ``check_accepting`` raises when the bus takes no events any more: an envelope may have waited meanwhile.
    """

    def __init__(self, check_accepting: Callable[[], None]) -> None:
        self._check_accepting = check_accepting
        self._passing: dict[int, _Passing] = {}  # by the identity of the envelope, which they keep alive

    def beginning(self) -> Callable[[Handler, Envelope], asyncio.Task[None]]:
        """A function that begins to call a chain with an envelope, for the events of one call.

        The chain is called when the carrier has the event before it, or will not get that one. So the order
        holds when a middleware waits, and no event waits for one behind it.
        """
        latest: asyncio.Future[None] | None = None

        def begin(chain: Handler, envelope: Envelope) -> asyncio.Task[None]:
            nonlocal latest
            loop = asyncio.get_running_loop()
            passing = _Passing(envelope, loop.create_future())
            task = loop.create_task(self._call(chain, envelope, latest), name="promenade-publish-many")
            task.add_done_callback(lambda _: self._ended(passing))
            self._passing[id(envelope)] = passing
            latest = passing.handed_over
            return task

        return begin

    def handing_over(self, envelope: Envelope) -> asyncio.Future[None] | None:
        """The future to set when the carrier has the event of an envelope, if somebody waits for that.

        A middleware may have replaced the envelope: then the next event waits until its task has ended.
        """
        passing = self._passing.get(id(envelope))
        return None if passing is None or passing.handed_over.done() else passing.handed_over

    async def _call(self, chain: Handler, envelope: Envelope, before: asyncio.Future[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait((before,))
            self._check_accepting()
        await chain(envelope)

    def _ended(self, passing: _Passing) -> None:
        del self._passing[id(passing.envelope)]
        if not passing.handed_over.done():
            passing.handed_over.set_result(None)

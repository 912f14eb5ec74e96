"""``bus.dead_letters``: list, redrive and purge the messages that subscriptions gave up on."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, TypedDict, Unpack
from uuid import UUID

from bus_core.abc import AdapterBase, DeadLetterStore
from bus_core.errors import BusError, UnknownSubscription
from bus_core.events.messages import DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterTally

__all__ = ["DeadLetterCriteria", "DeadLetters"]

_PAGE: Final = 100
"""The number of letters of one request to the store where there may be many."""

_MOST_BYTES: Final = 32_000_000
"""The bytes of bodies after which a page ends early."""


class DeadLetterCriteria(TypedDict, total=False):
    """The filter of the given criteria; see ``DeadLetterFilter``."""

    topic: str | None
    subscription: str | None
    error: str | None
    dead_before: datetime | None
    dead_after: datetime | None
    event_id: UUID | None
    ids: frozenset[str] | None


class DeadLetters:
    """The dead letters of a bus. Every call needs the bus to be started.

    Redrive the letters of one subscription after its bug is fixed::

        await bus.dead_letters.redrive(DeadLetterFilter(subscription="welcome-mail"))
    """

    def __init__(
        self,
        adapter: Callable[[], AdapterBase],
        check_usable: Callable[[str], None],
        subscribed: Callable[[str], bool],
    ) -> None:
        self._adapter = adapter
        self._check_usable = check_usable
        self._subscribed = subscribed

    @property
    def _store(self) -> DeadLetterStore:
        return self._adapter().dead_letters

    async def list(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **criteria: Unpack[DeadLetterCriteria],
    ) -> DeadLetterPage:
        """The oldest letters that meet all criteria of a ``DeadLetterFilter``, at most ``limit``.

        The page has a ``next_cursor`` for the next call; it is None when there are no more letters. Very
        large letters make a page shorter. Raises ``ValueError`` for a cursor from elsewhere.
        """
        self._check_usable("list dead letters")
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit must be an int of at least 1, got {limit!r}")
        where = DeadLetterFilter(**criteria)
        found = DeadLetterPage(next_cursor=cursor)
        size = 0
        while len(found) < limit and size < _MOST_BYTES:
            page = await self._store.page(where, found.next_cursor, limit - len(found))
            found += page
            size += sum(len(letter.body) for letter in page)
            found.next_cursor = page.next_cursor
            if page.next_cursor is None:
                break
        return found

    async def count(self, **criteria: Unpack[DeadLetterCriteria]) -> int:
        """The number of letters that meet all criteria of a ``DeadLetterFilter``."""
        self._check_usable("count dead letters")
        return await self._store.count(DeadLetterFilter(**criteria))

    async def tally(self, **criteria: Unpack[DeadLetterCriteria]) -> Sequence[DeadLetterTally]:
        """Counts matching letters in groups of the same topic, subscription, error and place.

        The largest group comes first. Each has the times when its first and its last letter died.
        """
        self._check_usable("count dead letters")
        return await self._store.tally(DeadLetterFilter(**criteria))

    async def iterate(self, **criteria: Unpack[DeadLetterCriteria]) -> AsyncIterator[DeadLetter]:
        """Iterates over every letter that meets all criteria, the oldest first, page by page.

        Letters may come and go meanwhile. Each letter that exists all the time comes exactly once.
        """
        self._check_usable("list dead letters")
        async for page in self._pages(DeadLetterFilter(**criteria)):
            for letter in page:
                yield letter

    async def _pages(self, where: DeadLetterFilter) -> AsyncIterator[DeadLetterPage]:
        cursor: str | None = None
        while True:
            page = await self._store.page(where, cursor, _PAGE)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        self._check_usable("get a dead letter")
        return await self._store.get(letter_id)

    async def redrive(self, letters: str | DeadLetter | DeadLetterFilter | Iterable[str | DeadLetter]) -> int:
        """Sends letters back to the subscription that failed, and only to it. Returns their number.

        ``letters`` is an id, a letter, several of them, or a ``DeadLetterFilter``. Attempts start at 1, and
        the history is kept. A letter that was redriven before is skipped, so repeating is harmless. Raises
        ``UnknownSubscription``, and redrives none, when the bus has no such subscription any more.
        """
        self._check_usable("redrive dead letters")
        if isinstance(letters, DeadLetterFilter):
            ids = await self._ids_of(letters)
        elif isinstance(letters, str | DeadLetter):
            ids = [_id_of(letters)]
        else:
            ids = [_id_of(item) for item in letters]
        return await self._store.redrive(ids)

    async def _ids_of(self, where: DeadLetterFilter) -> builtins.list[str]:
        """The letters that the filter selects now, so that returning letters are not redriven again."""
        most = await self._store.count(where)
        ids: builtins.list[str] = []
        async for page in self._pages(where):
            ids += [letter.id for letter in page]
            if len(ids) >= most:
                break
        name = where.subscription
        if not ids and name is not None and not self._subscribed(name):
            raise UnknownSubscription(
                f"cannot redrive: the bus has no subscription {name!r}, and it left no dead letter"
            )
        return ids[:most]

    async def purge(self, where: DeadLetterFilter | None = None) -> int:
        """Deletes the letters that the filter selects. Returns their number.

        Raises ``BusError`` without a filter. To delete everything, pass ``DeadLetterFilter()``.
        """
        self._check_usable("purge dead letters")
        if where is None:
            raise BusError(
                "purge() needs a filter: DeadLetterFilter(topic=..., subscription=...), "
                "or DeadLetterFilter() for all"
            )
        return await self._store.purge(where)


def _id_of(item: str | DeadLetter) -> str:
    return item if isinstance(item, str) else item.id

"""``bus.dead_letters``: what subscriptions gave up on, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bus_core.abc import AdapterBase, DeadLetterStore
from bus_core.errors import BusError, UnknownSubscription
from bus_core.events.messages import DeadLetter, DeadLetterFilter

__all__ = ["DeadLetters"]


class DeadLetters:
    """The dead letters of a bus. Every call needs the bus to be started."""

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
        self, *, topic: str | None = None, subscription: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """The oldest letters, of one topic and one subscription if named, at most ``limit``."""
        self._check_usable("list dead letters")
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit must be an int of at least 1, got {limit!r}")
        return [*await self._store.list(DeadLetterFilter(topic=topic, subscription=subscription), limit)]

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        self._check_usable("get a dead letter")
        return await self._store.get(letter_id)

    async def redrive(self, letters: str | DeadLetter | DeadLetterFilter | Iterable[str | DeadLetter]) -> int:
        """Sends letters back to the subscription that failed, and only to it; returns how many.

        ``letters`` is an id, a letter, several of them, or a ``DeadLetterFilter``. Attempts start at 1, and
        the history is kept. A letter that was redriven already is passed over, so that repeating is
        harmless. Raises ``UnknownSubscription``, and redrives none, when the bus has no such
        subscription any more.
        """
        self._check_usable("redrive dead letters")
        if isinstance(letters, DeadLetterFilter):
            name = letters.subscription
            letters = await self._store.list(letters, limit=2**31)
            if not letters and name is not None and not self._subscribed(name):
                raise UnknownSubscription(
                    f"cannot redrive: the bus has no subscription {name!r}, and it left no letter"
                )
        elif isinstance(letters, str | DeadLetter):
            letters = [letters]
        return await self._store.redrive([item if isinstance(item, str) else item.id for item in letters])

    async def purge(self, where: DeadLetterFilter | None = None) -> int:
        """Deletes the letters that the filter selects; returns how many.

        Raises ``BusError`` without a filter: deleting everything has to be said, by ``DeadLetterFilter()``.
        """
        self._check_usable("purge dead letters")
        if where is None:
            raise BusError(
                "purge() needs a filter: DeadLetterFilter(topic=..., subscription=...), "
                "or DeadLetterFilter() for all"
            )
        return await self._store.purge(where)

"""How many entries a read asks for, so that its reply stays within some bytes.

Servers count entries, not bytes. How large entries are is learnt from those that came; a read that took too
long is followed by one of half as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["WIDER", "ReadSize"]

WIDER: Final = 4
"""How many times more streams a look goes through after one that found nothing."""

_MOST_BYTES: Final = 1_000_000
"""Bytes of one reply: on a network of 2 Mbit/s they arrive well within a lease of half a minute."""

_FIRST: Final = 16
"""Entries of the first read, when nothing is known of their size."""


class ReadSize:
    """What one consumer has learnt."""

    def __init__(self) -> None:
        self._bytes_each = 0.0
        self._most = _FIRST
        self._asked = 1

    def count(self, limit: int) -> int:
        """How many entries to ask for where ``limit`` are wanted; at least one."""
        by_size = int(_MOST_BYTES / self._bytes_each) if self._bytes_each else limit
        self._asked = max(1, min(limit, by_size, self._most))
        return self._asked

    def learn(self, entries: Iterable[Sequence[Any]]) -> None:
        """Entries came, all of a read: pairs of an id and of fields, which are None where the entry is gone.

        A read that is shared among streams asks for a little less than it may.
        """
        count = size = 0
        for _, fields in entries:
            if fields is not None:
                count += 1
                size += sum(map(len, fields))
        if count:
            # More at once; less only little by little: what is small now may be large again.
            self._bytes_each = max(size / count, self._bytes_each / 2)
        if count > self._asked / 2:
            self._most = max(self._most, 2 * count)

    def failed(self) -> None:
        """The last read took too long."""
        self._most = max(1, self._asked // 2)

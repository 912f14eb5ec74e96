"""The number of entries that a read requests, so that its reply stays within a size in bytes.

Servers limit reads by entries, not by bytes. The consumer estimates the size from earlier entries, and halves
the number after a read that took too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["WIDER", "ReadSize"]

WIDER: Final = 4
"""The factor for the number of streams after a read that found nothing."""

_MOST_BYTES: Final = 1_000_000
"""The target size of a reply in bytes; at 2 Mbit/s it arrives well within a lease of half a minute."""

_FIRST: Final = 16
"""The number of entries of the first read, when their size is unknown."""


class ReadSize:
    """The estimate of one consumer."""

    def __init__(self) -> None:
        self._bytes_each = 0.0
        self._most = _FIRST
        self._asked = 1

    def count(self, limit: int) -> int:
        """Returns the number of entries to request when ``limit`` are wanted; at least one."""
        by_size = int(_MOST_BYTES / self._bytes_each) if self._bytes_each else limit
        self._asked = max(1, min(limit, by_size, self._most))
        return self._asked

    def learn(self, entries: Iterable[Sequence[Any]]) -> None:
        """Learns from all entries of a read: pairs of an id and fields, which are None for a removed entry.

        A read of several streams requests a little less than the limit.
        """
        count = size = 0
        for _, fields in entries:
            if fields is not None:
                count += 1
                size += sum(map(len, fields))
        if count:
            # The estimate rises at once and falls slowly, because small entries may be followed by large
            # ones.
            self._bytes_each = max(size / count, self._bytes_each / 2)
        if count > self._asked / 2:
            self._most = max(self._most, 2 * count)

    def failed(self) -> None:
        """Halves the next read after one that took too long."""
        self._most = max(1, self._asked // 2)

"""Reads the lines of a file or a pipe in a thread, so that the event loop is not blocked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["Line", "read_lines"]

_CHUNK = 1 << 16
_LONGEST = 1 << 26


@dataclass(frozen=True)
class Line:
    """A line without its newline. ``number`` counts from 1; ``size`` is its length in the file in bytes.

    A line longer than 64 MiB is cut, and ``is_cut`` is true.
    """

    number: int
    body: bytes
    size: int
    is_cut: bool = False


class _Splitter:
    """Splits chunks into lines."""

    def __init__(self) -> None:
        self._number = 0
        self._rest = bytearray()
        self._dropped = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        *ended, last = chunk.split(b"\n")
        for part in ended:
            self._add(part)
            yield self._line(end=1)
        self._add(last)

    def finish(self) -> Iterator[Line]:
        if self._rest or self._dropped:
            yield self._line(end=0)

    def _add(self, part: bytes) -> None:
        room = max(0, _LONGEST - len(self._rest))
        self._rest += part[:room]
        self._dropped += len(part) - len(part[:room])

    def _line(self, end: int) -> Line:
        self._number += 1
        body, size = bytes(self._rest), len(self._rest) + self._dropped + end
        line = Line(self._number, body.removesuffix(b"\r"), size, is_cut=self._dropped > 0)
        self._rest.clear()
        self._dropped = 0
        return line


async def read_lines(source: BinaryIO) -> AsyncIterator[list[Line]]:
    """Yields lists of the lines that arrived together. Skips a byte order mark and blank lines.

    The reading thread is a daemon and holds no Python lock, so it cannot keep an interrupted process alive.
    """
    raw: Any = getattr(source, "raw", source)
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | BaseException] = asyncio.Queue(maxsize=4)

    def pump() -> None:
        while True:
            item: bytes | BaseException
            try:
                item = raw.read(_CHUNK) or b""
            except (OSError, ValueError) as error:
                item = error
            try:
                asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the loop is closed: there is no reader
            if not isinstance(item, bytes) or not item:
                return

    threading.Thread(target=pump, name="promenade-bus-lines", daemon=True).start()
    splitter, is_first = _Splitter(), True
    while True:
        item = await queue.get()
        if isinstance(item, BaseException):
            raise item
        if is_first:
            item = item.removeprefix(b"\xef\xbb\xbf")
            is_first = False
        lines = [*(splitter.feed(item) if item else splitter.finish())]
        if lines:
            yield [line for line in lines if line.body.strip()]
        if not item:
            return

"""Faults on the way to a server.

A fault is given to ``FaultProxy.use``, and works until it is replaced, or done.

Directions are named after what they carry: ``requests`` go to the server, ``replies`` come from it. All of
them work on whole requests and replies, except those that count or slow down bytes.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from redis_support.proxy import Link

Direction = Literal["requests", "replies", "both"]
Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Piece:
    """A request or a reply on its way; ``command`` is the name of the request, also on its reply."""

    data: bytes
    direction: Literal["requests", "replies"]
    command: str
    link: Link

    def is_of(self, command: str) -> bool:
        """True when it belongs to a command, or to a script: ``EVALSHA`` with its digest."""
        return f"{self.command} ".startswith(f"{command.upper()} ")


class Fault:
    """Passes everything on. Others override ``carry``."""

    async def carry(self, piece: Piece, write: Write) -> None:
        """Hands on what is to arrive, by ``write``."""
        await write(piece.data)


@dataclass(eq=False)
class Drop(Fault):
    """Swallows one direction, or both: a connection that is half open, or a black hole.

    What is lost never comes back: a connection that lost bytes stays silent in that direction when the
    fault is over, until somebody closes or resets it.
    """

    direction: Direction = "both"

    async def carry(self, piece: Piece, write: Write) -> None:
        if self.direction in (piece.direction, "both"):
            piece.link.silence(piece.direction)
            piece.link.proxy.count("swallowed_bytes", len(piece.data))
        else:
            await write(piece.data)


@dataclass(eq=False)
class Stall(Fault):
    """Holds one direction, or both, and lets it go when the fault is over; nothing is lost.

    The sender is held up once the buffers on the way are full.
    """

    direction: Direction = "both"

    async def carry(self, piece: Piece, write: Write) -> None:
        if self.direction in (piece.direction, "both"):
            piece.link.proxy.count("stalled")
            await piece.link.proxy.pause(None, self)
        await write(piece.data)


@dataclass(eq=False)
class Delay(Fault):
    """Everything takes at least ``seconds`` longer, and at most twice that."""

    seconds: float
    direction: Direction = "both"

    async def carry(self, piece: Piece, write: Write) -> None:
        if self.direction in (piece.direction, "both"):
            piece.link.proxy.count("delayed")
            await piece.link.proxy.pause(self.seconds, self)
        await write(piece.data)


@dataclass(eq=False)
class SlowBytes(Fault):
    """One byte every ``interval`` seconds."""

    interval: float
    direction: Direction = "both"

    async def carry(self, piece: Piece, write: Write) -> None:
        rest = piece.data
        while rest and self.direction in (piece.direction, "both") and piece.link.proxy.has(self):
            piece.link.proxy.count("slow_bytes")
            await write(rest[:1])
            rest = rest[1:]
            await piece.link.proxy.pause(self.interval, self)
        await write(rest)


@dataclass(eq=False)
class Rate(Fault):
    """A slow network: ``rate`` bytes a second, on each connection."""

    rate: float
    direction: Direction = "both"

    async def carry(self, piece: Piece, write: Write) -> None:
        rest = piece.data
        size = max(1, round(self.rate / 50))
        while rest and self.direction in (piece.direction, "both") and piece.link.proxy.has(self):
            await write(rest[:size])
            rest = rest[size:]
            await piece.link.proxy.pause(size / self.rate, self)
        await write(rest)


@dataclass(eq=False)
class Refuse(Fault):
    """New connections are reset at once; those that exist go on."""


@dataclass(eq=False)
class LoseReplies(Fault):
    """Loses a reply with a probability; the request has arrived. The connection is then reset, or silent.

    ``commands`` restricts it to replies to these.
    """

    probability: float
    seed: int
    commands: tuple[str, ...] = ()
    then: Literal["reset", "silence"] = "reset"

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def carry(self, piece: Piece, write: Write) -> None:
        concerned = piece.direction == "replies" and (
            not self.commands or any(map(piece.is_of, self.commands))
        )
        if concerned and self._random.random() < self.probability:
            piece.link.proxy.count("lost_replies")
            piece.link.lose(piece, self.then)
        else:
            await write(piece.data)


@dataclass(eq=False)
class CutAtReply(Fault):
    """Loses, once, the reply to the ``occurrence``-th command of that name: the server has done the work.

    ``delivered`` bytes of the reply still arrive. ``done`` tells that it happened.
    """

    command: str
    occurrence: int = 1
    then: Literal["reset", "silence"] = "reset"
    delivered: int = 0
    done: bool = False

    async def carry(self, piece: Piece, write: Write) -> None:
        if not self.done and piece.direction == "replies" and piece.is_of(self.command):
            self.occurrence -= 1
            if self.occurrence == 0:
                self.done = True
                if self.delivered:
                    await write(piece.data[: self.delivered])
                piece.link.proxy.count("lost_replies")
                piece.link.lose(piece, self.then)
                return
        await write(piece.data)


@dataclass(eq=False)
class CutAtRequest(Fault):
    """Resets, once, instead of handing on the ``occurrence``-th command of that name: it never arrives."""

    command: str
    occurrence: int = 1
    done: bool = False

    async def carry(self, piece: Piece, write: Write) -> None:
        if not self.done and piece.direction == "requests" and piece.is_of(self.command):
            self.occurrence -= 1
            if self.occurrence == 0:
                self.done = True
                piece.link.proxy.count("lost_requests")
                piece.link.reset()
                return
        await write(piece.data)


@dataclass(eq=False)
class CutAfterBytes(Fault):
    """Resets, once, when ``bytes_left`` more bytes have passed in a direction, over all connections."""

    bytes_left: int
    direction: Direction = "both"
    done: bool = False

    async def carry(self, piece: Piece, write: Write) -> None:
        if self.done or self.direction not in (piece.direction, "both"):
            await write(piece.data)
            return
        passing = piece.data[: self.bytes_left]
        self.bytes_left -= len(passing)
        if passing:
            await write(passing)
        if self.bytes_left == 0:
            self.done = True
            piece.link.reset()

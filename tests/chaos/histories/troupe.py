"""Starts, asks, kills and freezes players."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import attrs

from chaos.forkserver import Member, shared_forkserver
from chaos.histories.player import Part, Player

__all__ = ["Actor", "Failed", "LocalTroupe", "ProcessTroupe", "Troupe"]

_ANSWER = 25.0


class Failed(Exception):
    """A player could not do what it was told to. ``error`` is the name of the class."""

    def __init__(self, label: str, do: str, error: str, text: str) -> None:
        super().__init__(f"{label} could not {do}: {error}: {text}")
        self.error = error
        self.text = text


class Actor(Protocol):
    """A player, wherever it runs."""

    label: str

    async def ask(self, do: str, **facts: Any) -> Any:
        """Its answer; raises ``Failed``."""
        ...

    async def end(self) -> None:
        """Closes it in good order, and waits until it is gone. Raises ``Failed``."""
        ...

    async def kill(self) -> None:
        """SIGKILL."""
        ...

    def freeze(self) -> None:
        """SIGSTOP."""
        ...

    def thaw(self) -> None:
        """SIGCONT."""
        ...


class Troupe(Protocol):
    """Where players come from."""

    async def start(self, part: Part) -> Actor:
        """A new player; its bus is not started."""
        ...

    async def close(self) -> None:
        """Kills whoever is left."""
        ...


def _answer_of(label: str, do: str, answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise Failed(label, do, answer["error"], answer["text"])
    return answer["answer"]


# --- processes --------------------------------------------------------------------------------------------


@attrs.define
class _Process:
    label: str
    member: Member
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    async def ask(self, do: str, **facts: Any) -> Any:
        async with self.lock:
            try:
                async with asyncio.timeout(_ANSWER):
                    self.writer.write(json.dumps({"do": do, **facts}).encode() + b"\n")
                    await self.writer.drain()
                    line = await self.reader.readline()
            except TimeoutError:
                raise Failed(self.label, do, "NoAnswer", f"within {_ANSWER:g} s{self._log()}") from None
            except OSError as error:
                raise Failed(self.label, do, "Gone", f"{error}{self._log()}") from None
        if not line:
            raise Failed(self.label, do, "Gone", f"status {self.member.poll()}{self._log()}")
        return _answer_of(self.label, do, json.loads(line))

    async def end(self) -> None:
        await self.ask("close")
        status = await self._gone()
        if status != 0:
            raise Failed(self.label, "end", "Status", f"{status}{self._log()}")

    async def kill(self) -> None:
        self.member.signal(signal.SIGKILL)
        await self._gone()

    def freeze(self) -> None:
        self.member.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.member.signal(signal.SIGCONT)

    async def _gone(self) -> int:
        try:
            async with asyncio.timeout(10.0):
                while (status := self.member.poll()) is None:  # noqa: ASYNC110 - it sets no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise Failed(self.label, "end", "NoEnd", f"it runs after 10 s{self._log()}") from None
        self.writer.close()
        return status

    def _log(self) -> str:
        return f"; it logged: {self.member.log_text()[-1500:]}"


class ProcessTroupe:
    """Players in processes of their own, which are forked within milliseconds."""

    def __init__(self, directory: Path, bug: str) -> None:
        self._directory = directory
        self._bug = bug
        self._place = Path()
        self._server: asyncio.Server | None = None
        self._arrivals: dict[str, asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}
        self._members: list[Member] = []

    async def open(self) -> None:
        """Begins to listen."""
        # The path of a socket is short.
        self._place = Path(tempfile.mkdtemp(prefix="promenade-"))
        self._server = await asyncio.start_unix_server(self._arrived, self._socket, limit=2**24)

    @property
    def _socket(self) -> str:
        return str(self._place / "socket")

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if line := await reader.readline():  # nothing comes from one that dies at once
            self._arrivals.pop(json.loads(line)["label"]).set_result((reader, writer))

    async def start(self, part: Part) -> Actor:
        label = part.label
        arrival = self._arrivals[label] = asyncio.get_running_loop().create_future()
        role = attrs.asdict(attrs.evolve(part, socket=self._socket, bug=self._bug))
        member = shared_forkserver().start(role, self._directory / f"{label}.log")
        self._members.append(member)
        deadline = time.monotonic() + _ANSWER
        while not arrival.done():
            if member.poll() is not None or time.monotonic() > deadline:
                raise Failed(label, "begin", "NoAnswer", member.log_text()[-1500:])
            await asyncio.wait((arrival,), timeout=0.02)
        return _Process(label, member, *arrival.result())

    async def close(self) -> None:
        for member in self._members:
            if member.poll() is None:
                member.kill()
        if self._server is not None:
            self._server.close()
            shutil.rmtree(self._place)


# --- memory -----------------------------------------------------------------------------------------------


@attrs.define
class _Local:
    label: str
    player: Player
    ends: list[list[str]] = attrs.field(factory=list)
    has_ended: bool = False

    async def ask(self, do: str, **facts: Any) -> Any:
        return _answer_of(self.label, do, await self.player.perform(do, facts))

    async def end(self) -> None:
        # What is paused ends without its letters: those are gone with the bus.
        await self.ask("resume")
        await self.ask("drain")
        self.ends = [*await self.ask("letters"), *await self.ask("close")]
        self.has_ended = True

    async def kill(self) -> None:
        await self.end()

    def freeze(self) -> None:
        """There is nothing to freeze."""

    def thaw(self) -> None:
        """There is nothing to thaw."""


class LocalTroupe:
    """Players in this process. What they have left undone, and their letters, are told when they end."""

    def __init__(self) -> None:
        self._actors: list[_Local] = []

    async def start(self, part: Part) -> Actor:
        actor = _Local(part.label, Player(part))
        self._actors.append(actor)
        return actor

    async def ends(self) -> list[list[str]]:
        """The letters of all, and what those have left undone that are gone: subscription, topic, event."""
        found: list[list[str]] = []
        for actor in self._actors:
            found += actor.ends if actor.has_ended else await actor.ask("letters")
        return found

    async def close(self) -> None:
        for actor in self._actors:
            await actor.player.perform("close", {})

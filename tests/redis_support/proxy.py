"""A TCP proxy between a client and a server that fails on demand, and counts what it did."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, TypeVar

from redis_support.child_processes import wait_until
from redis_support.faults import Fault, Piece, Refuse, Write
from redis_support.resp import Framer, command_name, is_push
from redis_support.servers import HOST

T = TypeVar("T")

Side = Literal["requests", "replies"]

_RESET = struct.pack("ii", 1, 0)  # linger for 0 s: closing sends RST instead of FIN
_CHUNK = 65536


class FaultProxy:
    """Listens on a port of its own and hands everything on to ``target``, as far as its faults let it.

    It runs on an event loop in a thread of its own; every method may be called from any thread and from
    coroutines of other loops, for none takes long. ``target`` may be changed at any time and counts for new
    connections. With ``tls`` it ends TLS for a server that has none, so that the server sees plain bytes.

    ``counts`` has: connections, unreachable, refused, resets, half_closes, requests, replies, request_bytes,
    reply_bytes, and what the faults count.
    """

    def __init__(self, target: tuple[str, int], *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.host = HOST
        self.port = 0
        self.counts: Counter[str] = Counter()
        self._tls = tls
        self._faults: tuple[Fault, ...] = ()
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    # --- for tests ----------------------------------------------------------------------------------------

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def address(self) -> str:
        """``host:port`` of the proxy."""
        return f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    def use(self, *faults: Fault) -> None:
        """From now on these faults, and no others; each sees what the one before it lets through."""
        self._faults = faults
        self._call(self._announce)

    def heal(self) -> None:
        """No faults any more. Connections that lost bytes stay silent; see ``Drop``."""
        self.use()

    def reset_connections(self) -> int:
        """Sends RST to both ends of every connection; returns how many there were."""
        return self._call(lambda: sum(link.reset() for link in [*self._links]))

    def half_close(self, towards: Literal["client", "server"] = "client") -> None:
        """Sends FIN on every connection in one direction; the other one goes on."""
        self._call(lambda: [link.half_close(towards) for link in [*self._links]])

    def wait_for(self, condition: Callable[[Counter[str]], bool], what: str, timeout: float = 10.0) -> None:
        """Waits until the counts fulfil a condition; raises ``TimeoutError``. Blocks: not for coroutines."""
        wait_until(lambda: condition(self.counts), f"the proxy {what}", timeout)

    # --- for faults and links, on the loop of the proxy ---------------------------------------------------

    def has(self, fault: Fault) -> bool:
        """True when a fault is still in use."""
        return fault in self._faults

    def count(self, what: str, number: int = 1) -> None:
        """Adds to the counts."""
        self.counts[what] += number

    async def pause(self, seconds: float | None, fault: Fault) -> None:
        """Waits, but not longer than the fault is in use."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.has(fault):
                    await self._changed.wait()

    async def carry(self, piece: Piece, write: Write) -> None:
        """Sends a piece through all faults."""
        for fault in reversed(self._faults):
            write = self._through(fault, piece, write)
        await write(piece.data)

    @staticmethod
    def _through(fault: Fault, piece: Piece, write: Write) -> Write:
        async def step(data: bytes) -> None:
            await fault.carry(Piece(data, piece.direction, piece.command, piece.link), write)

        return step

    @property
    def is_sound(self) -> bool:
        """True when no fault is in use."""
        return not self._faults

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    # --- its thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda _loop, _context: self.count("errors"))
        try:
            self._loop.run_forever()
        finally:
            for link in [*self._links]:
                link.reset()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._server.close()
            self._loop.run_until_complete(asyncio.sleep(0))  # lets the transports close their sockets
            self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, HOST, 0, ssl=self._tls, limit=_CHUNK)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if any(isinstance(fault, Refuse) for fault in self._faults):
            self.count("refused")
            _abort(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target, limit=_CHUNK)
        except OSError:
            self.count("unreachable")
            _abort(writer)
            return
        link = Link(self, writer, server_writer)
        self._links.add(link)
        self.count("connections")
        try:
            await asyncio.gather(link.pump("requests", reader), link.pump("replies", server_reader))
        finally:
            self._links.discard(link)
            for end in (writer, server_writer):
                end.close()


class Link:
    """One connection through the proxy."""

    def __init__(
        self, proxy: FaultProxy, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter
    ) -> None:
        self.proxy = proxy
        self._ends = {"client": to_client, "server": to_server}
        self._waiting: deque[str] = deque()  # names of commands that have not been answered
        self._silent: set[Side] = set()
        self._is_reset = False

    async def pump(self, direction: Side, reader: asyncio.StreamReader) -> None:
        """Carries one direction until it ends."""
        framer = Framer()
        end = self._ends["server" if direction == "requests" else "client"]

        async def write(data: bytes) -> None:
            if data and direction not in self._silent and not self._is_reset:
                end.write(data)
                await end.drain()

        try:
            while data := await reader.read(_CHUNK):
                self.proxy.count("request_bytes" if direction == "requests" else "reply_bytes", len(data))
                frames = framer.feed(data)
                commands = [self._command(direction, frame, framer) for frame in frames]
                if self.proxy.is_sound:
                    await write(b"".join(frames))
                    continue
                for frame, command in zip(frames, commands, strict=True):
                    if not self._is_reset:
                        await self.proxy.carry(Piece(frame, direction, command, self), write)
        except (ConnectionError, ssl.SSLError):
            self.reset()
        else:
            if not self._is_reset and direction not in self._silent:
                _finish(end)

    def _command(self, direction: Side, frame: bytes, framer: Framer) -> str:
        """The command that a frame is, or answers; and counts it."""
        if framer.is_opaque:
            return ""
        if direction == "requests":
            self.proxy.count("requests")
            self._waiting.append(command_name(frame))
            return self._waiting[-1]
        self.proxy.count("replies")
        return self._waiting.popleft() if self._waiting and not is_push(frame) else ""

    def silence(self, direction: Side) -> None:
        """Nothing of that direction arrives any more."""
        self._silent.add(direction)

    def lose(self, piece: Piece, then: Literal["reset", "silence"]) -> None:
        """The next step when a piece was lost."""
        if then == "reset":
            self.reset()
        else:
            self.silence(piece.direction)

    def reset(self) -> bool:
        """RST to both ends; False when that was done before."""
        if self._is_reset:
            return False
        self._is_reset = True
        self.proxy.count("resets")
        for end in self._ends.values():
            _abort(end)
        return True

    def half_close(self, towards: Literal["client", "server"]) -> None:
        """FIN to one end."""
        self.proxy.count("half_closes")
        self.silence("requests" if towards == "server" else "replies")
        _finish(self._ends[towards])


def _abort(writer: asyncio.StreamWriter) -> None:
    try:
        plain = writer.get_extra_info("socket")
    except AttributeError:  # a transport of TLS that has ended, on CPython 3.11
        plain = None
    if plain is not None:  # TLS that is ending has none any more
        with contextlib.suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(AttributeError):  # the same
        writer.transport.abort()


def _finish(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        if writer.can_write_eof():
            writer.write_eof()
        else:  # TLS knows no half-closed connection
            writer.close()

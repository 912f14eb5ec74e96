"""One connection to one server: sends commands, reads replies, and raises failures of the bus.

redis-py provides the protocol and the handshake. Its retries are off, because they would store events twice,
and it never reconnects automatically. RESP3 is off, so that replies have the same form on every server, there
are no push messages, and a user needs no permission for HELLO.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hiredis import Reader, pack_command
from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from bus_core import AdapterError
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.config import TlsOptions
from promenade_bus_redis.server.failures import Kind, RedisFailure, failure_of, is_reply

__all__ = ["Connector", "Link", "make_tls_context"]

_LITTLE: Final = 65_536
"""The maximum number of bytes in the socket's buffer while waiting for the reply."""

_CHUNK: Final = 65_536
"""The maximum number of bytes read at once."""

_SLOWEST: Final = 250_000
"""The minimum network speed in bytes a second: large commands and replies get the time that they need at this
speed."""

_INCOMPLETE: Final = object()

_NOT_IN_NAMES: Final = re.compile(r"[^!-~]+")


class Link:
    """An open connection, for one task at a time: replies arrive in the order of the commands.

    ``is_node``: the server is a cluster node. After a reply that the server is a replica or not ready, the
    connection is closed when all replies have arrived, because a new one may lead to another server. Set
    ``stays`` to keep using this server nevertheless.
    """

    def __init__(self, connection: AbstractConnection, address: Address, *, is_node: bool = False) -> None:
        self.connection = connection
        self.address = address
        self.stays = False
        self._is_node = is_node
        self._is_left = False
        self._in_step = True
        # The parser of redis-py, used for the handshake, takes one reply at a time with its own time limit.
        # That costs more than all other work for an event.
        self._replies = Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_INCOMPLETE,
        )

    @property
    def is_open(self) -> bool:
        """True if the connection is usable: connected, with no reply outstanding."""
        return self._in_step and self.connection.is_connected

    @property
    def is_usable(self) -> bool:
        """True if the connection is open and no end was received so far; needs no system call."""
        return self._in_step and not self.has_ended

    @property
    def has_ended(self) -> bool:
        """True if its end was received; a connection with an outstanding reply has not ended."""
        reader = self.connection._reader
        if reader is None or not self.connection.is_connected:
            return True
        return reader.at_eof() or reader.exception() is not None

    async def is_stale(self) -> bool:
        """Returns True if the server closed the connection, or sent something, while it was idle."""
        if not self.is_open:
            return True
        try:
            return self._replies.has_data() or bool(await self.connection.can_read())
        except (RedisError, OSError):
            return True

    async def call(self, *command: Any) -> Any:
        """Returns the reply to one command; raises ``RedisFailure``."""
        reply = (await self.call_many([command]))[0]
        if isinstance(reply, RedisFailure):
            raise reply
        return reply

    async def call_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Returns the replies to commands sent together; a refused command has its failure as reply.

        When the connection fails, commands without a reply get that failure, and the connection is closed.
        Only a cancellation is raised. It closes the connection, too, because nobody would read the remaining
        replies.
        """

        def pack() -> bytes:
            return b"".join([pack_command(tuple(command)) for command in commands])

        return await self._exchange(pack, commands, None)

    async def _send(self, packed: bytes) -> None:
        """Sends without redis-py's ``wait_for``, which may swallow a cancellation on CPython 3.11."""
        writer = self.connection._writer
        if writer is None:
            raise ConnectionResetError("the connection is closed")
        writer.write(packed)
        if writer.transport.get_write_buffer_size() > _LITTLE:
            async with asyncio.timeout(self._patience + len(packed) / _SLOWEST):
                await writer.drain()

    @property
    def _patience(self) -> float:
        """The time limit in seconds for a small reply."""
        return self.connection.socket_timeout or 0.0

    async def send(
        self, packed: bytes, commands: Sequence[Sequence[Any]], patience: float | None = None
    ) -> list[Any]:
        """Like ``call_many``, for packed commands.

        The time limit for all of it is ``patience`` seconds, if given, plus the transfer time on a slow
        network.
        """
        return await self._exchange(lambda: packed, commands, patience)

    async def _exchange(
        self, pack: Callable[[], bytes], commands: Sequence[Sequence[Any]], patience: float | None
    ) -> list[Any]:
        replies: list[Any] = []
        if not self.is_open:
            failure = RedisFailure(Kind.LOST, str(self.address), uncertain=False)
            return [failure for _ in commands]
        self._in_step = False
        try:
            packed = pack()
            transfer = len(packed) / _SLOWEST
            async with asyncio.timeout(None if patience is None else patience + transfer):
                await self._send(packed)
                await self._read(commands, replies, transfer)
            self._in_step = not self._replies.has_data()
            if self._is_left:
                self.abort()
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception as error:
            self.abort()
            replies += [self._failure(error, command) for command in commands[len(replies) :]]
        return replies

    async def _read(self, commands: Sequence[Sequence[Any]], replies: list[Any], transfer: float) -> None:
        """Appends each reply as it arrives. The commands take ``transfer`` seconds to arrive."""
        next_reply = self._replies.gets
        for command in commands:
            reply = next_reply()
            if reply is _INCOMPLETE:
                reply = await self._wait_for_reply(transfer)
            if isinstance(reply, Exception):
                if not is_reply(reply):
                    raise reply
                reply = self._failure(reply, command)
            replies.append(reply)

    def _failure(self, error: Exception, command: Sequence[Any] = ("",)) -> RedisFailure:
        """Returns the failure for an error, and leaves the connection if necessary."""
        failure = failure_of(error, self.address, command=_name(command))
        self._is_left |= failure.leaves_connection(is_node=self._is_node) and not self.stays
        if failure.kind not in (Kind.MOVED, Kind.ASK) or self._is_node:
            return failure
        words = "it is a node of a cluster; set 'cluster: true'"
        told = RedisFailure(failure.kind, failure.place, command=failure.command, detail=words)
        told.__cause__ = failure.__cause__
        return told

    async def _wait_for_reply(self, transfer: float) -> Any:
        """Waits for the rest of a reply, within the time that a reply of its size may take.

        Each piece extends the time limit by the transfer time of its bytes at the minimum speed. So a large
        reply gets more time than a server that is gone.
        """
        patience = self._patience
        last = asyncio.get_running_loop().time() + patience + transfer
        async with asyncio.timeout_at(last) as limit:
            while True:
                reader = self.connection._reader
                data = await reader.read(_CHUNK) if reader is not None else b""
                if not data:
                    raise RedisConnectionError("the connection was closed")
                self._replies.feed(data)
                reply: Any = self._replies.gets()
                if reply is not _INCOMPLETE:
                    return reply
                last += len(data) / _SLOWEST
                limit.reschedule(min(last, asyncio.get_running_loop().time() + patience))

    # --- where replies come unasked -----------------------------------------------------------------------

    def write(self, *command: Any) -> None:
        """Sends a command; ``read`` returns its reply among other messages.

        After this the connection supports only ``write`` and ``read``. Raises ``RedisFailure``.
        """
        self._in_step = False
        writer = self.connection._writer
        if writer is None or writer.transport.is_closing():
            raise RedisFailure(Kind.LOST, str(self.address), command=_name(command), uncertain=False)
        writer.write(pack_command(command))

    async def read(self, seconds: float) -> list[Any]:
        """Returns the messages that arrive within this time, in order; a refused command has its failure.

        Raises ``RedisFailure`` when the connection fails.
        """
        replies: list[Any] = []
        reader = self.connection._reader
        try:
            data = b""
            if reader is not None:
                try:
                    async with asyncio.timeout(seconds):
                        data = await reader.read(_CHUNK)
                except TimeoutError:
                    return replies
            if not data:
                raise RedisConnectionError("the connection was closed")
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not _INCOMPLETE:
                if isinstance(reply, Exception):
                    if not is_reply(reply):
                        raise reply
                    reply = self._failure(reply)
                replies.append(reply)
        except (RedisError, OSError) as error:
            self.abort()
            failure = failure_of(error, self.address)
        else:
            if self._is_left:
                self.abort()
            return replies
        raise failure

    async def close(self) -> None:
        """Closes the connection normally."""
        with contextlib.suppress(RedisError, OSError):
            await self.connection.disconnect()

    def abort(self) -> None:
        """Ends the connection at once, without waiting."""
        self._in_step = False
        writer = self.connection._writer
        if writer is not None:
            writer.transport.abort()
            self.connection._reader = self.connection._writer = None
        self.connection._parser.on_disconnect()  # type: ignore[no-untyped-call]


def _name(command: Sequence[Any]) -> str:
    """Returns the name of a command, with its subcommand where permissions need it."""
    words = [word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in command[:2]]
    two = {"XGROUP", "XINFO", "CLIENT", "CONFIG", "SCRIPT", "CLUSTER", "COMMAND", "ACL", "SENTINEL"}
    return " ".join(words).upper() if words[0].upper() in two else words[0].upper()


# --- opening ----------------------------------------------------------------------------------------------


class _WithName:
    """Sends the connection's purpose as its name, if the user may do that."""

    may_set_name: Callable[[bool | None], bool]
    label: str

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)  # type: ignore[misc]
        if self.label and self.may_set_name(None):
            connection: Any = self
            await connection.send_command("CLIENT", "SETNAME", self.label, check_health=False)
            try:
                await connection.read_response()
            except ResponseError as error:  # the name is optional
                if failure_of(error, "").kind in (Kind.FORBIDDEN, Kind.UNKNOWN_COMMAND):
                    self.may_set_name(False)  # each refusal adds a line to the server's ACL LOG


class _TcpConnection(_WithName, Connection):
    tls: ssl.SSLContext | None = None
    server_name: str | None = None

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())
        if self.tls is not None:
            arguments["ssl"] = self.tls
            if self.server_name:
                arguments["server_hostname"] = self.server_name
        return arguments


class _UnixConnection(_WithName, UnixDomainSocketConnection):
    async def _connect(self) -> None:
        # redis-py 8.1 does the handshake here, and then again.
        self._reader, self._writer = await asyncio.open_unix_connection(path=self.path)


class Connector:
    """Opens connections with the same credentials, TLS and limits.

    ``name`` is the prefix of connection names in CLIENT LIST. ``is_node``: the servers are cluster nodes.
    Times are seconds.
    """

    def __init__(
        self,
        *,
        username: str = "",
        password: str = "",
        db: int = 0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        connect_timeout: float = 5.0,
        command_timeout: float = 5.0,
        name: str = "",
        is_node: bool = False,
    ) -> None:
        self._is_node = is_node
        self._credentials = {"username": username or None, "password": str(password) or None}
        self._db = db
        self._tls = tls
        self._server_name = server_name
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._name = _NOT_IN_NAMES.sub("-", name)
        self._may_set_name = True

    def _naming(self, allowed: bool | None) -> bool:
        if allowed is not None:
            self._may_set_name = allowed
        return self._may_set_name

    async def open(self, address: Address, *, purpose: str = "", blocks: float = 0.0) -> Link:
        """Opens a connection that is ready for commands, within ``connect_timeout``.

        ``blocks`` is the time for which its commands may block on the server; its replies may take that much
        longer. Raises ``RedisFailure``, which names the server and never the user.
        """
        connection = self._make(address, purpose, blocks)
        link = Link(connection, address, is_node=self._is_node)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            link.abort()
            hidden = [text for text in self._credentials.values() if text]
            failure = failure_of(error, address, sent=False, hidden=hidden)
        except BaseException:
            link.abort()
            raise
        else:
            return link
        # Raised outside the except block, so that a traceback does not print the original error.
        raise failure

    def _make(self, address: Address, purpose: str, blocks: float) -> AbstractConnection:
        options: dict[str, Any] = {
            **self._credentials,
            "db": self._db,
            "socket_timeout": self._command_timeout + blocks,
            "socket_connect_timeout": self._connect_timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            "driver_info": None,  # no CLIENT SETINFO: unknown before 7.2, and often not allowed
        }
        connection: _TcpConnection | _UnixConnection
        if address.path:
            connection = _UnixConnection(path=address.path, **options)
        else:
            connection = _TcpConnection(
                host=address.host, port=address.port, socket_keepalive=True, **options
            )
            connection.tls = self._tls
            connection.server_name = self._server_name
        connection.label = ":".join(filter(None, [self._name, purpose])) if self._name else ""
        connection.may_set_name = self._naming
        return connection


def make_tls_context(options: TlsOptions) -> ssl.SSLContext:
    """Reads the TLS files of the options; raises ``AdapterError`` with the invalid one."""
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("ca_file", options.ca_file, error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.verify != "full":
        context.check_hostname = False
    if options.verify == "none":
        context.verify_mode = ssl.CERT_NONE
    if options.cert_file:
        password = options.key_password or ""
        files = ", ".join(filter(None, [options.cert_file, options.key_file]))
        try:
            context.load_cert_chain(options.cert_file, options.key_file, lambda: password)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("cert_file, or key_file,", files, error) from error
    return context


def _unusable(option: str, path: str | None, error: Exception) -> AdapterError:
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    return AdapterError(
        f"the TLS option {option} cannot be used ({path}): {reason or 'no fitting certificate or key in it'}"
    )

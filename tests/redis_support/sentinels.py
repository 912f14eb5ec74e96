"""A primary, its replicas, and the sentinels that watch them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from redis_support.binaries import ServerBinary, newest_binary
from redis_support.child_processes import wait_until
from redis_support.servers import START_TIMEOUT, Replica, Server, Setting
from redis_support.stacked import Stacked

SERVICE: Final = "promenade"


class Sentinel(Server):
    """One sentinel. It rewrites its own configuration file, which survives a restart."""

    _keeps_configuration = True

    def __init__(self, primary: Server, *, quorum: int, down_after: float, password: str) -> None:
        rules = [
            f"monitor {SERVICE} {primary.host} {primary.port} {quorum}",
            f"down-after-milliseconds {SERVICE} {int(down_after * 1000)}",
            f"failover-timeout {SERVICE} {int(down_after * 6000)}",
            f"parallel-syncs {SERVICE} 1",
        ]
        if primary.password:
            rules.append(f"auth-pass {SERVICE} {primary.password}")
        if password:
            rules.append(f"sentinel-pass {password}")
        super().__init__(
            primary.binary,
            settings={"sentinel": rules},
            password=password,
            arguments=["--sentinel"],
        )

    def pairs(self, *command: str) -> list[dict[str, str]]:
        """The answer of a SENTINEL command that lists instances, each as pairs of name and value."""
        return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in self.ask("SENTINEL", *command)]

    @property
    def primary_port(self) -> int:
        """The port of the server that this sentinel holds for the primary."""
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def _defaults(self) -> dict[str, Setting]:
        kept = ("bind", "dir", "daemonize", "protected-mode", "requirepass")
        return {name: value for name, value in super()._defaults().items() if name in kept}


class SentinelGroup(Stacked):
    """One primary, ``replicas`` of it and three sentinels, of which two must agree on a failover.

    ``settings`` and ``password`` are those of the data servers. ``down_after`` are the seconds of silence
    after which a server counts as down; below the second in which sentinels send PING it happens by itself.
    """

    service = SERVICE

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        replicas: int = 1,
        down_after: float = 1.5,
        settings: Mapping[str, Setting] | None = None,
        password: str = "",
        sentinel_password: str = "",
    ) -> None:
        super().__init__()
        self.binary = binary or newest_binary()
        self._replicas = replicas
        self._settings = settings or {}
        self._password = password
        self._sentinel_password = sentinel_password
        self._down_after = down_after
        self.servers: list[Server] = []
        self.sentinels: list[Sentinel] = []

    def open(self, stack: ExitStack) -> None:
        """Starts a primary, its replicas and the sentinels, and waits until these know all of them."""

        def start(server: Server) -> None:
            stack.callback(server.close)
            server.start()

        primary = Server(self.binary, settings=self._settings, password=self._password)
        start(primary)
        self.servers = [primary]
        for _ in range(self._replicas):
            replica = Replica(primary, settings=self._settings)
            start(replica)
            self.servers.append(replica)
        for _ in range(3):
            sentinel = Sentinel(
                primary, quorum=2, down_after=self._down_after, password=self._sentinel_password
            )
            start(sentinel)
            self.sentinels.append(sentinel)
        self.wait_complete()

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of each sentinel."""
        return [sentinel.address for sentinel in self.sentinels]

    def primary(self) -> Server:
        """The server that the first running sentinel holds for the primary."""
        sentinel = next(item for item in self.sentinels if item.is_running)
        return self._server_on(sentinel.primary_port)

    def _server_on(self, port: int) -> Server:
        return next(server for server in self.servers if server.port == port)

    def wait_complete(self, timeout: float = START_TIMEOUT) -> None:
        """Waits until every sentinel sees the others and all replicas, so that a failover can succeed."""

        def complete(sentinel: Sentinel) -> bool:
            (primary,) = sentinel.pairs("MASTERS")
            replicas = sentinel.pairs("REPLICAS", SERVICE)
            return (
                int(primary["num-other-sentinels"]) == len(self.sentinels) - 1
                and primary["flags"] == "master"
                and sum(state["flags"] == "slave" for state in replicas) == self._replicas
            )

        wait_until(lambda: all(map(complete, self.sentinels)), "the sentinels know everyone", timeout)

    def wait_failed_over(self, old: Server, timeout: float = 30.0) -> Server:
        """Waits until the sentinels have made another server the primary, and it takes writes."""

        def promoted() -> bool:
            ports = {sentinel.primary_port for sentinel in self.sentinels if sentinel.is_running}
            if len(ports) > 1 or old.port in ports:
                return False
            primary = self._server_on(ports.pop())
            return primary.is_running and primary.ask("ROLE")[0] == "master"

        wait_until(promoted, f"another primary than port {old.port} is in charge", timeout)
        return self.primary()

    def rejoin(self, server: Server, timeout: float = 30.0) -> None:
        """Starts a former primary again, as a replica of the present one, and waits until all is complete.

        The sentinels would do that by themselves, only 10 to 30 seconds later.
        """
        primary = self.primary()
        server.reconfigure(replicaof=f"{primary.host} {primary.port}")
        primary.reconfigure(replicaof=None)
        server.restart()
        self.wait_complete(timeout)

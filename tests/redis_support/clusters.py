"""A cluster of three primaries, and replicas of them if wanted, on the loopback interface."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from redis_support.binaries import ServerBinary, newest_binary
from redis_support.child_processes import wait_until
from redis_support.servers import START_TIMEOUT, Server, Setting
from redis_support.stacked import Stacked

SLOTS: Final = 16384


class Cluster(Stacked):
    """Primaries that share the slots evenly; ``replicas`` more servers follow each of them."""

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        primaries: int = 3,
        replicas: int = 0,
        settings: Mapping[str, Setting] | None = None,
        password: str = "",
    ) -> None:
        super().__init__()
        self.binary = binary or newest_binary()
        self._replicas = replicas
        options: dict[str, Setting] = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": 1000,
            "cluster-require-full-coverage": "no",
            **(settings or {}),
        }
        self.servers = [
            Server(self.binary, settings=options, password=password)
            for _ in range(primaries * (1 + replicas))
        ]
        self.primaries = self.servers[:primaries]

    def open(self, stack: ExitStack) -> None:
        """Starts the servers, and makes one cluster of them."""
        for server in self.servers:
            stack.callback(server.close)
            server.launch()
        for server in self.servers:
            server.come_up()
        self._join()

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of each server."""
        return [server.address for server in self.servers]

    def _join(self) -> None:
        first = self.servers[0]
        for index, server in enumerate(self.servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            if server is not first:
                server.ask("CLUSTER", "MEET", first.host, first.port)
        bounds = [index * SLOTS // len(self.primaries) for index in range(len(self.primaries) + 1)]
        for server, (begin, end) in zip(self.primaries, itertools.pairwise(bounds), strict=True):
            if self.binary.at_least((7, 0)):
                server.ask("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
            else:
                server.ask("CLUSTER", "ADDSLOTS", *range(begin, end))
        everyone = len(self.servers)
        self._wait(lambda server: server.known_nodes == everyone, "everyone knows everyone")
        for index, replica in enumerate(self.servers[len(self.primaries) :]):
            replica.ask("CLUSTER", "REPLICATE", self.node_id(self.primaries[index % len(self.primaries)]))
        self._wait(lambda server: server.is_ok and server.slots == SLOTS, "all slots are served")
        for replica in self.servers[len(self.primaries) :]:
            wait_until(
                lambda replica=replica: replica.info("replication").get("master_link_status") == "up",
                f"the replica on port {replica.port} is in step",
                START_TIMEOUT,
            )

    def _wait(self, condition: Any, what: str) -> None:
        wait_until(
            lambda: all(condition(_ClusterInfo(server)) for server in self.servers), what, START_TIMEOUT
        )

    def node_id(self, server: Server) -> str:
        """The name of a server in the cluster."""
        return str(server.ask("CLUSTER", "MYID"))

    def slot_of(self, key: str) -> int:
        """The slot of a key."""
        return int(self.servers[0].ask("CLUSTER", "KEYSLOT", key))

    def owner_of(self, key: str) -> Server:
        """The primary that serves a key, as the first server that runs sees it."""
        witness = next(server for server in self.servers if server.is_running)
        slot = int(witness.ask("CLUSTER", "KEYSLOT", key))
        ranges = witness.ask("CLUSTER", "SLOTS")
        port = next(primary[1] for begin, end, primary, *_ in ranges if begin <= slot <= end)
        return next(server for server in self.servers if server.port == port)

    def move_slot(self, slot: int, source: Server, target: Server) -> None:
        """Moves a slot with everything in it, as a resharding does."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.node_id(target))
        password = ["AUTH", source.password] if source.password else []
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", target.host, target.port, "", 0, 5000, *password, "KEYS", *keys)
        for server in (target, source, *(item for item in self.primaries if item not in (source, target))):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", self.node_id(target))


class _ClusterInfo:
    """The answer of a server to CLUSTER INFO."""

    def __init__(self, server: Server) -> None:
        lines = server.ask("CLUSTER", "INFO").split()
        self._values: dict[str, str] = dict(line.split(":", 1) for line in lines)

    @property
    def known_nodes(self) -> int:
        return int(self._values["cluster_known_nodes"])

    @property
    def is_ok(self) -> bool:
        return self._values["cluster_state"] == "ok"

    @property
    def slots(self) -> int:
        return int(self._values["cluster_slots_ok"])

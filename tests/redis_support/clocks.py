"""A clock of its own for a server, which steps while the server runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from redis_support.child_processes import shared_children

__all__ = ["SteppingClock", "can_step"]


def _library() -> Path | None:
    spec = find_spec("libfaketime")
    places = [] if spec is None else [*(spec.submodule_search_locations or ())]
    return next((found for place in places for found in Path(place).rglob("libfaketime.so.1")), None)


def can_step() -> bool:
    """True when the library that steps clocks is there; it exists for Linux only."""
    return _library() is not None


class SteppingClock:
    """The time of day of a server that is started with ``environment``; what is monotonic is left alone."""

    def __init__(self) -> None:
        library = _library()
        assert library is not None, "libfaketime is not installed"
        self._file = shared_children().directory() / "clock"
        self.set(0.0)
        self.environment: Mapping[str, str] = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """From now on it is so many seconds ahead of the real one; behind it when that is negative."""
        following = self._file.with_suffix(".next")
        following.write_text(f"{seconds:+f}\n")
        following.replace(self._file)

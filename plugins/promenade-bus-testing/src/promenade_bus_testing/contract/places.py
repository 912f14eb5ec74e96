"""The isolated environment of a contract test."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["Place"]


@attrs.frozen
class Place:
    """Isolates a test from all others that run at the same time, even on the same server.

    ``name`` is unique and has at most 40 letters, digits and hyphens; use it as a prefix, or as the name of a
    database. ``directory`` exists and is empty. ``stress`` is true in a stress run.
    """

    name: str
    directory: Path
    stress: bool = False

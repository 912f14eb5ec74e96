"""Where one contract test takes place."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["Place"]


@attrs.frozen
class Place:
    """What makes a test independent of every other one that runs at the same time, on the same server too.

    ``name`` is unique: letters, digits and hyphens, at most 40 of them; use it as a prefix, or as the name
    of a database. ``directory`` is empty and exists. ``stress`` tells whether this is a stress run.
    """

    name: str
    directory: Path
    stress: bool = False
